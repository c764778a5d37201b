"""The page that `ensemble.report` writes: its figures, and the HTML, CSS and JavaScript that display them."""

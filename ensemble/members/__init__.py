"""Members of a blend: fold models, grouped and checked, and their predictions for one split."""

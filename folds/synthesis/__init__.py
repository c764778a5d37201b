"""The demos' data: sentences of a small grammar as synthetic speech, and neural activity for that of Brain-to-Text."""

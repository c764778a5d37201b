"""The demos' data: sentences of a small grammar as synthetic speech, or as neural activity for Brain-to-Text."""

"""What a user may write: frozen pydantic models (the only home of keys, defaults and their documentation), the YAML
reader whose errors carry file, line and column, and the expansion of a sweep into trials. No torch, no numpy here.
"""

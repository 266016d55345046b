"""Continue prompts: decoding with a key-value cache, and sampling."""

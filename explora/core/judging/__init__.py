"""Judge text that models write: by a person who compares blindly, and over decoding settings."""

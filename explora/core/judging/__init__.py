"""Judge what models write: by a person who compares blindly, and over settings of decoding."""

"""Fine-tune GPT-2 on the machine you have, and see with measurements whether LoRA pays off there."""

__version__ = "0.1.0"

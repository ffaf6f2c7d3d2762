"""What a training script imports: `from carbon_exporter.push import Progress`.

Light (the standard library and this package's own nouns) and harmless: nothing that happens to the Pushgateway slows
down or breaks a training run. See docs/push.md.
"""

from carbon_exporter.push.progress import Progress

__all__ = ["Progress"]

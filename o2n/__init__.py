"""O2N: few-shot visual anomaly scoring by one-to-normal personalisation.

`o2n.onboard.onboard` makes a category version from a few pictures of good parts, `o2n.triplet.TripletScorer`
scores pictures with it, `o2n.store.CategoryStore` is where versions live.
"""

from o2n import torchvision_guard

__version__ = "0.1.0"

torchvision_guard.install()

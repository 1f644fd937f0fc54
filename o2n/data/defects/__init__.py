"""What goes wrong with a part: kinds of defects, each a function that spoils pictures.

A kind takes a `Scene` (pictures that are still flawless, without light and noise) and returns their spoilt colours. The
mask is not drawn but measured: it is where the two differ. `training`, `validation` and `evaluation` share no kind.
"""

from o2n.data.defects.evaluation import EVALUATION_DEFECTS as EVALUATION_DEFECTS
from o2n.data.defects.scene import Kind as Kind
from o2n.data.defects.scene import Scene as Scene
from o2n.data.defects.spoiling import spoil as spoil
from o2n.data.defects.training import TRAINING_DEFECTS as TRAINING_DEFECTS
from o2n.data.defects.validation import VALIDATION_DEFECTS as VALIDATION_DEFECTS

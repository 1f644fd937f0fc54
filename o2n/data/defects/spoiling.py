"""Pictures -> spoilt pictures, each with the mask of what its defect has changed."""

from collections.abc import Callable

import numpy as np
from numpy.random import Generator

from o2n.data.defects.scene import Kind, Scene
from o2n.data.fields import Colour, Drawing, Field, disc, grid

VISIBLE = 0.06  # smallest difference of a colour, of 1, that counts as changed
LEAST_AREA = 12 / 64**2  # smallest share of a picture that a defect covers


def spoil(
    scene: Scene, kinds: dict[str, Kind], names: list[str], rng: Generator
) -> tuple[Colour, np.ndarray, list[str]]:
    """Give each picture the defect it is to have, "" for none.

    A defect that does not show (a bend in a plain surface, a stain in the part's own colour) is tried anew as another
    kind, and in the end a plain hole is made.

    Returns: the spoilt colours, their masks bool (N, S, S), and the kinds they came to have.
    """
    colour, done = scene.colour.copy(), list(names)
    masks = np.zeros(scene.colour.shape[:3], bool)
    open_ = [row for row, name in enumerate(names) if name]
    for _ in range(6):
        still = []
        for name in sorted({done[row] for row in open_}):
            rows = [row for row in open_ if done[row] == name]
            spoilt = np.clip(kinds[name](_rows(scene, rows), rng), 0, 1)
            differs = np.abs(spoilt - scene.colour[rows]).max(axis=-1)
            for row, picture, difference in zip(rows, spoilt, differs, strict=True):
                mask = difference > VISIBLE
                if mask.mean() >= LEAST_AREA and difference[mask].mean() > 2 * VISIBLE:
                    colour[row], masks[row] = picture, mask
                else:
                    still.append(row)
        open_ = still
        for row in open_:
            done[row] = str(rng.choice(list(kinds)))
        if not open_:
            break
    for row in open_:
        x, y = grid(scene.size)
        spot = disc(x, y, 0.15, *rng.uniform(-0.6, 0.6, 2).tolist()) < 0
        colour[row][spot] = 0.0 if scene.colour[row][spot].mean() > 0.5 else 1.0
        masks[row], done[row] = spot, "hole"
    return colour.astype(np.float32), masks, done


def _rows(scene: Scene, rows: list[int]) -> Scene:
    drawn = scene.drawing
    part = Drawing(drawn.colour[rows], drawn.ground[rows], drawn.parts[rows])

    def of_rows(draw: Callable[[Field, Field], Drawing] | None) -> Callable[[Field, Field], Drawing] | None:
        if draw is None:
            return None

        def drawn_there(x: Field, y: Field) -> Drawing:
            # Redrawn whole, since a picture's own randomness depends on its place in the batch.
            all_x, all_y = scene.x.copy(), scene.y.copy()
            all_x[rows], all_y[rows] = x, y
            whole = draw(all_x, all_y)
            return Drawing(whole.colour[rows], whole.ground[rows], whole.parts[rows])

        return drawn_there

    return Scene(part, scene.x[rows], scene.y[rows], of_rows(scene.again), of_rows(scene.other))

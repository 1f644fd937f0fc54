// Pictures on the page: heat maps, thumbnails, PNGs out of answers.

// Those of o2n/report.py: dark violet over red to pale yellow, even in lightness.
const COLOURS = [
  [0, 0, 4], [40, 11, 84], [101, 21, 110], [159, 42, 99], [212, 72, 66], [245, 125, 21], [250, 193, 39], [252, 255, 164],
];
const SIDE = 256; // of a drawn heat map; the browser stretches it over the picture

/** Draw `map` (g rows of g values) on `canvas`: `low` and below is clear, `high` and above is pale yellow. */
export function drawHeatMap(canvas, map, low, high) {
  canvas.width = canvas.height = SIDE;
  const context = canvas.getContext("2d");
  const image = context.createImageData(SIDE, SIDE);
  for (let y = 0, at = 0; y < SIDE; y++) {
    for (let x = 0; x < SIDE; x++, at += 4) {
      const heat = clamp((between(map, (y + 0.5) / SIDE, (x + 0.5) / SIDE) - low) / Math.max(high - low, 1e-12), 0, 1);
      const place = heat * (COLOURS.length - 1);
      const stop = Math.min(Math.floor(place), COLOURS.length - 2);
      for (let c = 0; c < 3; c++) {
        image.data[at + c] = COLOURS[stop][c] + (place - stop) * (COLOURS[stop + 1][c] - COLOURS[stop][c]);
      }
      image.data[at + 3] = 255 * heat;
    }
  }
  context.putImageData(image, 0, 0);
}

/** The value of `map` at (v, u), both from 0 to 1, bilinear between the centres of its patches. */
function between(map, v, u) {
  const last = map.length - 1;
  const y = clamp(v * map.length - 0.5, 0, last), x = clamp(u * map.length - 0.5, 0, last);
  const top = Math.floor(y), left = Math.floor(x);
  const bottom = Math.min(top + 1, last), right = Math.min(left + 1, last);
  const above = map[top][left] + (x - left) * (map[top][right] - map[top][left]);
  const below = map[bottom][left] + (x - left) * (map[bottom][right] - map[bottom][left]);
  return above + (y - top) * (below - above);
}

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

/** Draw a picture's file on `canvas`, filling it; false where the browser does not know the format. */
export async function drawThumbnail(canvas, file) {
  try {
    // Decoded off the main thread and shrunk at once: a list of hundreds of photographs stays small.
    const bitmap = await createImageBitmap(file, { resizeWidth: canvas.width, resizeQuality: "medium" });
    const scale = Math.max(canvas.width / bitmap.width, canvas.height / bitmap.height);
    const [width, height] = [bitmap.width * scale, bitmap.height * scale];
    canvas.getContext("2d").drawImage(bitmap, (canvas.width - width) / 2, (canvas.height - height) / 2, width, height);
    bitmap.close();
    return true;
  } catch {
    return false;
  }
}

/** An object URL of a PNG in base64. */
export function pngUrl(base64) {
  return URL.createObjectURL(new Blob([Uint8Array.from(atob(base64), (c) => c.charCodeAt(0))], { type: "image/png" }));
}

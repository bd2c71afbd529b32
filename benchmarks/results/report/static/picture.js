"use strict";
// The picture of a case as arrays again; see pictures.py for how it was packed. Voxels are in C order, axes (x, y, z).

function bytesOf(base64) {
  return Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
}

async function inflated(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** The grey values of the mosaic of axial slices. */
async function scanOf(packed) {
  const [nx, ny, nz] = packed.shape;
  const image = new Image();
  image.src = packed.scan;
  await image.decode();
  const canvas = element("canvas", { width: image.width, height: image.height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  const pixels = context.getImageData(0, 0, image.width, image.height).data;
  const scan = new Uint8Array(nx * ny * nz);
  for (let z = 0; z < nz; z++) {
    const left = (z % packed.columns) * nx, top = Math.floor(z / packed.columns) * ny;
    for (let x = 0; x < nx; x++) {
      for (let y = 0; y < ny; y++) scan[(x * ny + y) * nz + z] = pixels[4 * ((top + y) * image.width + left + x)];
    }
  }
  return scan;
}

/** Masks as bits: the reference, then one for each layer; each is stored as its difference from the one before. */
async function masksOf(packed) {
  const voxels = packed.shape[0] * packed.shape[1] * packed.shape[2];
  const size = Math.ceil(voxels / 8);
  const all = await inflated(bytesOf(packed.masks));
  for (let i = size; i < all.length; i++) all[i] ^= all[i - size];
  return Array.from({ length: packed.layers.length + 1 }, (_, number) => all.subarray(number * size, (number + 1) * size));
}

const isIn = (bits, voxel) => (bits[voxel >> 3] >> (7 - (voxel & 7))) & 1;

/** How a plane is laid on the screen, as radiologists look: the patient's right on the left, front or head up. */
const PLANES = {
  axial: { across: 0, down: 1, through: 2, sides: ["R", "L", "A", "P"] },
  coronal: { across: 0, down: 2, through: 1, sides: ["R", "L", "S", "I"] },
  sagittal: { across: 1, down: 2, through: 0, sides: ["A", "P", "S", "I"] },
};

class Picture {
  constructor(packed, scan, masks) {
    Object.assign(this, { packed, scan, masks, shape: packed.shape, spacing: packed.spacing, layers: packed.layers });
    const [, ny, nz] = packed.shape;
    this.strides = [ny * nz, nz, 1];
  }

  static async load(number) {
    const packed = JSON.parse(document.getElementById(`picture-${number}`).textContent);
    if (packed.error) throw new Error(packed.error);
    return new Picture(packed, packed.scan ? await scanOf(packed) : null, await masksOf(packed));
  }

  get reference() { return this.masks[0]; }

  /** The mask of a method after a step: of a step that was carried over, that of the last one before it; null after a gap. */
  layer(protocol, method, step) {
    const upTo = (one) => one.protocol === protocol && one.method === method && one.step <= step;
    let found = null;
    this.layers.forEach((layer, place) => {
      if (upTo(layer) && (found === null || layer.step > found.step)) found = { ...layer, bits: this.masks[place + 1] };
    });
    return found !== null && this.packed.gaps.some((gap) => upTo(gap) && gap.step > found.step) ? null : found;
  }

  /** Width and height of a plane in voxels, and the voxel that lies at a place of the screen. */
  plane(name, slice) {
    const { across, down, through } = PLANES[name];
    const width = this.shape[across], height = this.shape[down];
    const base = slice * this.strides[through];
    const voxel = (i, j) => base + (width - 1 - i) * this.strides[across] + (height - 1 - j) * this.strides[down];
    return { width, height, voxel, mmAcross: this.spacing[across], mmDown: this.spacing[down] };
  }

  /** 1 where a mask is, row by row as on the screen. */
  slice(bits, name, slice) {
    const { width, height, voxel } = this.plane(name, slice);
    const values = new Uint8Array(width * height);
    for (let j = 0, at = 0; j < height; j++) for (let i = 0; i < width; i++) values[at++] = isIn(bits, voxel(i, j));
    return values;
  }

  /** The slice through which most of a mask goes; the middle one if it is empty. */
  fullest(bits, name) {
    const through = PLANES[name].through;
    const counts = new Array(this.shape[through]).fill(0);
    const stride = this.strides[through], n = this.shape[through];
    const voxels = this.shape[0] * this.shape[1] * this.shape[2];
    for (let voxel = 0; voxel < voxels; voxel++) if (isIn(bits, voxel)) counts[Math.floor(voxel / stride) % n]++;
    const most = Math.max(...counts);
    return most ? counts.indexOf(most) : Math.floor(n / 2);
  }
}

/* Groups points by voxel (voxels.py). One bit for each cell of the bounding box says whether a point lies in it, and
 * the number of bits before that of a cell is the number of its voxel. So no point is compared with another. */
#include <math.h>
#include <stdint.h>

/* The lowest and the highest cell along each axis, of cells (count, 3) with count > 0. */
void hpal_extent(const int64_t *cell, int64_t count, int64_t *low, int64_t *high)
{
    for (int axis = 0; axis < 3; axis++) {
        int64_t least = cell[axis], most = cell[axis];
        for (int64_t n = 1; n < count; n++) {
            int64_t here = cell[3 * n + axis];
            least = here < least ? here : least;
            most = here > most ? here : most;
        }
        low[axis] = least;
        high[axis] = most;
    }
}

/* The lowest and the highest number along each axis, of positions (count, 3) with count > 0. Returns 0 if one
 * is NaN. */
int hpal_bounds(const float *xyz, int64_t count, float *low, float *high)
{
    /* A multiple of 3 and of every length of a vector, so that each index below it always belongs to the same axis. */
    enum { WIDE = 48 };
    float least[WIDE], most[WIDE];
    int32_t odd[WIDE];
    for (int k = 0; k < WIDE; k++) {
        least[k] = most[k] = xyz[k % 3];
        odd[k] = 0;
    }
    for (int64_t n = 0; n < 3 * count; n += WIDE) {
        int width = 3 * count - n < WIDE ? (int)(3 * count - n) : WIDE;
        for (int k = 0; k < width; k++) {
            float here = xyz[n + k];
            least[k] = here < least[k] ? here : least[k];
            most[k] = here > most[k] ? here : most[k];
            odd[k] |= here != here;
        }
    }
    int whole = 1;
    for (int axis = 0; axis < 3; axis++) {
        low[axis] = least[axis];
        high[axis] = most[axis];
        for (int k = axis; k < WIDE; k += 3) {
            low[axis] = least[k] < low[axis] ? least[k] : low[axis];
            high[axis] = most[k] > high[axis] ? most[k] : high[axis];
            whole &= !odd[k];
        }
    }
    return whole;
}

/* Numbers the voxels in the order of their cells, and returns how many there are. bits: one bit for each cell of the
 * box, all 0 at first; before: space for a number for every 64 of them; group: (count,) the index of each point's cell
 * in the box, which is replaced by the number of its voxel. */
static int64_t number_voxels(uint64_t *bits, int64_t *before, int64_t words, int64_t *group, int64_t count)
{
    for (int64_t n = 0; n < count; n++)
        bits[group[n] >> 6] |= UINT64_C(1) << (group[n] & 63);
    int64_t found = 0;
    for (int64_t word = 0; word < words; word++) {
        before[word] = found;
        found += __builtin_popcountll(bits[word]);
    }
    for (int64_t n = 0; n < count; n++) {
        int64_t place = group[n], word = place >> 6;
        uint64_t lower = (UINT64_C(1) << (place & 63)) - 1;
        group[n] = before[word] + __builtin_popcountll(bits[word] & lower);
    }
    return found;
}

/* Numbers the voxels of points whose cells are given (count, 3), in a box of `extent` cells that begins at `low`. The
 * other arguments are those of number_voxels(). */
int64_t hpal_group(const int64_t *cell, int64_t count, const int64_t *low, const int64_t *extent, uint64_t *bits,
                   int64_t *before, int64_t words, int64_t *group)
{
    for (int64_t n = 0; n < count; n++) {
        const int64_t *here = cell + 3 * n;
        group[n] = ((here[0] - low[0]) * extent[1] + here[1] - low[1]) * extent[2] + here[2] - low[2];
    }
    return number_voxels(bits, before, words, group, count);
}

/* The same for positions (count, 3), whose cell is floor(xyz / edge). Cells must fit into 32 bits, and the box must
 * have less than 2^31 of them. */
int64_t hpal_group_positions(const float *xyz, int64_t count, float edge, const int64_t *low, const int64_t *extent,
                             uint64_t *bits, int64_t *before, int64_t words, int64_t *group)
{
    int32_t from[3] = {(int32_t)low[0], (int32_t)low[1], (int32_t)low[2]};
    int32_t down = (int32_t)extent[2], across = (int32_t)extent[1] * down;
    for (int64_t n = 0; n < count; n++) {
        int32_t x = (int32_t)floorf(xyz[3 * n] / edge) - from[0];
        int32_t y = (int32_t)floorf(xyz[3 * n + 1] / edge) - from[1];
        int32_t z = (int32_t)floorf(xyz[3 * n + 2] / edge) - from[2];
        group[n] = x * across + y * down + z;
    }
    return number_voxels(bits, before, words, group, count);
}

/* Copies the inputs of each voxel's first point. group: (count,) the voxel of each point. Writes to features (voxels,
 * width + 3) the point's row of `columns` (count, width) and of xyz (count, 3), to voxel (voxels, 4) the number `scene`
 * and the point's cell, and to first (voxels,) the point's row. */
void hpal_first_of_each(const float *xyz, const float *columns, int64_t width, int64_t count, float edge, int64_t scene,
                        const int64_t *group, int64_t voxels, int64_t *first, float *features, int32_t *voxel)
{
    /* From the last point to the first, since of several rows that are written to one place the last one stays. */
    for (int64_t n = count - 1; n >= 0; n--)
        first[group[n]] = n;
    /* Voxel by voxel, so that memory is written from front to back, since more is written than read. */
    for (int64_t m = 0; m < voxels; m++) {
        const float *here = xyz + 3 * first[m], *more = columns + width * first[m];
        for (int64_t k = 0; k < width; k++)
            *features++ = more[k];
        *voxel++ = (int32_t)scene;
        for (int axis = 0; axis < 3; axis++) {
            *features++ = here[axis];
            *voxel++ = (int32_t)floorf(here[axis] / edge);
        }
    }
}

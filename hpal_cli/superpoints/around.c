/* What lies around superpoints (around.py). The places are sorted so that all that are within the radius of a centre are
   in a few runs of them; a run goes from `start` to before `stop`. */

#include <math.h>
#include <stdint.h>

/* place: (places, 4) x, y, z and height above the ground; value: (places, 5); centre: (centres, 4); start, stop:
   (centres, runs); bound: (6,) ascending; total: (centres, 16) zeros, described in around.py. */
void hpal_columns(const double *place, const double *value, const double *centre, const int64_t *start,
                  const int64_t *stop, int64_t centres, int64_t runs, double radius, const double *bound, double above,
                  double *total)
{
    for (int64_t s = 0; s < centres; s++, centre += 4, total += 16)
        for (int64_t r = s * runs; r < (s + 1) * runs; r++)
            for (int64_t n = start[r]; n < stop[r]; n++) {
                const double *here = place + 4 * n;
                double x = here[0] - centre[0], y = here[1] - centre[1], up = here[2] - centre[2];
                if (!(x * x + y * y <= radius * radius))
                    continue;
                int level = 0;
                for (int k = 0; k < 6; k++)
                    level += here[3] >= bound[k];
                total[level] += 1;
                if (fabs(up) < radius) {
                    total[7] += 1;
                    for (int k = 0; k < 5; k++)
                        total[8 + k] += value[5 * n + k];
                }
                total[13] = here[3] > total[13] ? here[3] : total[13];
                total[14] += up > above;
                total[15] += 1;
            }
}

/* place, facing: (places, 3) positions and normals; around, centre, plane: (centres, 3); start, stop: (centres, runs);
   bound: (8,) ascending; total: (centres, 12) zeros, described in around.py. */
void hpal_relief(const double *place, const double *facing, const double *around, const double *centre,
                 const double *plane, const int64_t *start, const int64_t *stop, int64_t centres, int64_t runs,
                 double radius, const double *bound, double parallel, double *total)
{
    for (int64_t s = 0; s < centres; s++, around += 3, centre += 3, plane += 3, total += 12)
        for (int64_t r = s * runs; r < (s + 1) * runs; r++)
            for (int64_t n = start[r]; n < stop[r]; n++) {
                const double *here = place + 3 * n, *normal = facing + 3 * n;
                double x = here[0] - around[0], y = here[1] - around[1], z = here[2] - around[2];
                if (!(x * x + y * y + z * z <= radius * radius))
                    continue;
                double step = (here[0] - centre[0]) * plane[0] + (here[1] - centre[1]) * plane[1] +
                              (here[2] - centre[2]) * plane[2];
                double cosine = normal[0] * plane[0] + normal[1] * plane[1] + normal[2] * plane[2];
                if (fabs(cosine) > parallel) {
                    int range = 0;
                    for (int k = 0; k < 8; k++)
                        range += step > bound[k];
                    total[range] += 1;
                }
                total[9] += 1;
                total[10] += step > bound[7];
                total[11] += step < bound[1];
            }
}

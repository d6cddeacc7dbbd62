/* Graph segmentation (Felzenszwalb and Huttenlocher 2004): edges are visited in ascending order of cost, and the two
   components at the ends of an edge are joined if its cost is at most, for each of them, the highest cost of an edge
   within it plus k / its number of points. */

#include <stdint.h>

static int32_t root(int32_t *parent, int32_t a)
{
    while (parent[a] != a) {
        parent[a] = parent[parent[a]];
        a = parent[a];
    }
    return a;
}

/* edge: (edges, 2) points, in ascending order of cost (edges,); parent: (points,), on return the root of each point,
   which names its component; size: (points,) and limit: (points,) are working memory. A second pass joins components
   of fewer than `least` points with the neighbour to which their cheapest edge leads. */
void hpal_segment(int64_t points, int64_t edges, const int32_t *edge, const double *cost, double k, int64_t least,
                  int32_t *parent, int32_t *size, double *limit)
{
    for (int64_t n = 0; n < points; n++) {
        parent[n] = (int32_t)n;
        size[n] = 1;
        limit[n] = k;
    }
    for (int pass = 0; pass < 2; pass++)
        for (int64_t e = 0; e < edges; e++) {
            int32_t a = root(parent, edge[2 * e]), b = root(parent, edge[2 * e + 1]);
            if (a == b)
                continue;
            int join = pass == 0 ? cost[e] <= limit[a] && cost[e] <= limit[b] : size[a] < least || size[b] < least;
            if (!join)
                continue;
            if (size[a] < size[b]) {
                int32_t other = a;
                a = b;
                b = other;
            }
            parent[b] = a;
            size[a] += size[b];
            limit[a] = cost[e] + k / size[a];
        }
    for (int64_t n = 0; n < points; n++)
        parent[n] = root(parent, (int32_t)n);
}

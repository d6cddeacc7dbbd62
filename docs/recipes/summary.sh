#!/usr/bin/env bash
# The last round of every finished campaign below RESULTS: mean and standard deviation of its mIoU over the seeds.
#
#   bash summary.sh RESULTS
set -euo pipefail

printf '%-28s %5s %16s %7s %7s\n' campaign seeds 'labelled points' 'mIoU %' '+-'
for folder in "$1"/*/; do
  for table in "$folder"seed-*/table.txt; do
    if [[ -e $table ]]; then tail -n 1 "$table"; fi
  done | awk -v name="$(basename "$folder")" '
    { n++; labelled += $2; sum += $3; miou[n] = $3 }
    END {
      if (!n) exit
      mean = sum / n
      for (i = 1; i <= n; i++) square += (miou[i] - mean) ^ 2
      spread = n > 1 ? sprintf("%.2f", sqrt(square / (n - 1))) : "-"
      printf "%-28s %5d %16d %7.2f %7s\n", name, n, labelled / n, mean, spread
    }'
done

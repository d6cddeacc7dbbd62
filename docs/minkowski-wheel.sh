#!/usr/bin/env bash
# Builds a wheel of MinkowskiEngine 0.5.4 against the torch of a Python, for the CPU or for the GPU with the CUDA (11, 12
# or 13) of the nvcc that is on PATH.
#
#     docs/minkowski-wheel.sh cpu|cuda PYTHON FOLDER [MinkowskiEngine-0.5.4.tar.gz]
#
# Without the archive it is fetched. For CUDA, TORCH_CUDA_ARCH_LIST is the compute capability of the GPU, if it is another
# machine's, and MAX_JOBS the number of compilers. HPAL_ONLY_SOURCE=1 unpacks into FOLDER and edits, and stops.
# docs/minkowski.md says what is known.
set -euo pipefail
device=$1
python=$(command -v "$2")
python=$(cd "$(dirname "$python")" && pwd)/$(basename "$python")
mkdir -p "$3"
folder=$(cd "$3" && pwd)
archive=${4:+$(cd "$(dirname "$4")" && pwd)/$(basename "$4")}
sum=b1879c00d0b0b1d30ba622cce239886a7e3c78ee9da1064cdfe2f64c2ab15f94
source=https://files.pythonhosted.org/packages/21/5c/c543c4bc5fbe73ac3e38465b3da4f24a61f7a4ac5baec867e582e94aa551

case $device in
cpu)
	version=0
	options=--cpu_only
	;;
cuda)
	command -v nvcc >/dev/null || { echo "nvcc is not on PATH: install the CUDA toolkit of torch's major version" >&2; exit 1; }
	version=$(nvcc --version | sed -n 's/.*release \([0-9]*\).*/\1/p')
	export CUDA_HOME=${CUDA_HOME:-$(dirname "$(dirname "$(readlink -f "$(command -v nvcc)")")")}
	options=--force_cuda
	;;
*)
	echo "$device: choose cpu or cuda" >&2
	exit 2
	;;
esac

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if [ -z "$archive" ]; then
	archive=$work/MinkowskiEngine-0.5.4.tar.gz
	"$python" -c 'import sys, urllib.request; urllib.request.urlretrieve(*sys.argv[1:])' \
		"$source/MinkowskiEngine-0.5.4.tar.gz" "$archive"
fi
echo "$sum  $archive" | sha256sum --check --quiet
place=$work
[ "${HPAL_ONLY_SOURCE:-0}" = 0 ] || place=$folder
tar xf "$archive" -C "$place"
cd "$place/MinkowskiEngine-0.5.4"

if [ "$device" = cpu ]; then
	# One source that includes all others: the templates of their common headers are then compiled once, not 13 times.
	mapfile -t sources < <(sed -n '/"cpu": \[/,/-DCPU_ONLY/s/^ *"\([a-z_]*\.cpp\)",$/\1/p' setup.py)
	[ ${#sources[@]} = 12 ]
	printf '#include "%s"\n' "${sources[@]}" ../pybind/minkowski.cpp >src/all_sources.cpp
	sed -i '/"cpu": \[/,/-DCPU_ONLY/{/^ *"[a-z_]*\.cpp",$/d; s|pybind/minkowski.cpp|src/all_sources.cpp|}' setup.py
	# Symbols for a debugger, which Python's own flags ask for, would take two fifths of the compiler's time.
	export CFLAGS="${CFLAGS:-} -g0" CXXFLAGS="${CXXFLAGS:-} -g0"
fi
if [ "$version" -ge 12 ]; then
	# 1. CUDA's headers have a namespace nvtx3 of their own now.
	sed -i 's/\bnvtx3::/nvtx3_of_engine::/g; s/namespace nvtx3\b/namespace nvtx3_of_engine/' src/3rdparty/cudf/detail/nvtx/*.hpp
	# 2. Thrust's headers no longer include one another.
	for h in device_vector host_vector execution_policy fill for_each functional pair reduce remove scan sequence sort \
		transform tuple unique iterator/constant_iterator iterator/counting_iterator iterator/discard_iterator \
		iterator/transform_iterator iterator/zip_iterator; do echo "#include <thrust/$h.h>"; done >src/thrust_all.cuh
	sed -i '0,/^#include/s||#include "thrust_all.cuh"\n#include|' src/*.cu pybind/minkowski.cu
	# 3. thrust::unary_function is gone, and nothing used what it gave.
	sed -i '/: public thrust::unary_function/,/{/c {' src/coordinate_map_functors.cuh
	# 4. at::Tensor must be complete before the headers of ATen/cuda are read.
	sed -i '0,/^#include/s||#include <ATen/core/Tensor.h>\n#include|' src/spmm.cu
	# 5. What create() returns is stored in a shared_ptr.
	sed -i 's/std::unique_ptr<Self, std::function<void(Self\*)>>{/std::shared_ptr<Self>{/' \
		src/3rdparty/concurrent_unordered_map.cuh
fi
if [ "$version" -ge 13 ]; then
	# 6. cudaMemPrefetchAsync takes a location.
	sed -i 's/dev_id, stream));/cudaMemLocation{cudaMemLocationTypeDevice, dev_id}, 0, stream));/' \
		src/3rdparty/concurrent_unordered_map.cuh
	# 7. Thrust moved into a folder that nvcc knows and g++, which compiles the .cpp files, does not.
	export CPATH=$CUDA_HOME/include/cccl${CPATH:+:$CPATH}
fi
[ "${HPAL_ONLY_SOURCE:-0}" = 0 ] || exit 0

# setup.py calls a bare `pip`, which must be this Python's.
PATH="$(dirname "$python"):$PATH" MAX_JOBS=${MAX_JOBS:-$(nproc)} "$python" -m pip wheel --no-cache-dir --use-pep517 \
	--no-build-isolation --no-deps --config-settings "--global-option=$options --blas=openblas" -w "$folder" .

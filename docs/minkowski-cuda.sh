#!/usr/bin/env bash
# Builds a wheel of MinkowskiEngine 0.5.4 for CUDA 11, 12 or 13, whichever nvcc is there, against the torch of a Python.
#
#     docs/minkowski-cuda.sh PYTHON FOLDER [MinkowskiEngine-0.5.4.tar.gz]
#
# Without the archive it is fetched. TORCH_CUDA_ARCH_LIST is the compute capability of the GPU, if it is another machine's;
# MAX_JOBS the number of compilers. HPAL_ONLY_SOURCE=1 unpacks and edits, and stops. docs/minkowski.md says what is known.
set -euo pipefail
python=$(command -v "$1")
python=$(cd "$(dirname "$python")" && pwd)/$(basename "$python")
mkdir -p "$2"
folder=$(cd "$2" && pwd)
archive=${3:+$(cd "$(dirname "$3")" && pwd)/$(basename "$3")}
sum=b1879c00d0b0b1d30ba622cce239886a7e3c78ee9da1064cdfe2f64c2ab15f94
source=https://files.pythonhosted.org/packages/21/5c/c543c4bc5fbe73ac3e38465b3da4f24a61f7a4ac5baec867e582e94aa551

command -v nvcc >/dev/null || { echo "nvcc is not on PATH: install the CUDA toolkit of torch's major version" >&2; exit 1; }
version=$(nvcc --version | sed -n 's/.*release \([0-9]*\).*/\1/p')
export CUDA_HOME=${CUDA_HOME:-$(dirname "$(dirname "$(readlink -f "$(command -v nvcc)")")")}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if [ -z "$archive" ]; then
	archive=$work/MinkowskiEngine-0.5.4.tar.gz
	curl -fsSL -o "$archive" "$source/MinkowskiEngine-0.5.4.tar.gz"
fi
echo "$sum  $archive" | sha256sum --check --quiet
place=$work
[ "${HPAL_ONLY_SOURCE:-0}" = 0 ] || place=$folder
tar xf "$archive" -C "$place"
cd "$place/MinkowskiEngine-0.5.4"

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
	--no-build-isolation --no-deps --config-settings '--global-option=--force_cuda --blas=openblas' -w "$folder" .

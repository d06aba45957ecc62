# Sourced by launch/test.sh --slow: compiles llama.cpp's Python package into .venv, once. Tests skip where that fails.
sum=${sum:-}                 # from environment.sh: what decides the versions
failed=.venv/.no-llama      # holds the versions for which it failed, so that it is not tried each time
if ! .venv/bin/python -c 'import llama_cpp' 2>/dev/null && ! grep -qxF "$sum" "$failed" 2>/dev/null; then
  if ! command -v "${CXX:-c++}" >/dev/null; then
    echo "No C++ compiler (${CXX:-c++}): the tests that need llama.cpp are skipped" >&2
  else
    log=.venv/llama.log
    echo "Compiling llama.cpp into .venv: half an hour on two cores, once; the log is $log ..." >&2
    without="-DLLAVA_BUILD=OFF -DLLAMA_CURL=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_TOOLS=OFF"
    CMAKE_ARGS="-DGGML_NATIVE=ON $without ${CMAKE_ARGS:-}" .venv/bin/python -m pip install --quiet \
      --disable-pip-version-check -c constraints.txt -e ".[llama]" >"$log" 2>&1 || {
        echo "$sum" >"$failed"
        echo "llama.cpp could not be compiled, so its tests are skipped; $log says why, rm $failed tries again" >&2
      }
  fi
fi

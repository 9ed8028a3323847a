# Compiles for Linux on aarch64 with Debian's g++-aarch64-linux-gnu. What is built runs in qemu-user.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_CROSSCOMPILING_EMULATOR "qemu-aarch64;-L;/usr/aarch64-linux-gnu")
# An installed Highway is the builder's.
set(FETCHCONTENT_TRY_FIND_PACKAGE_MODE NEVER)

# SPDX-License-Identifier: MIT
# Part of the install script: installs the description of guestio-blk for management layers (QEMU's
# docs/interop/vhost-user.json), if the program was built.
get_filename_component(prefix "${CMAKE_INSTALL_PREFIX}" ABSOLUTE)
cmake_path(ABSOLUTE_PATH bindir BASE_DIRECTORY "${prefix}" NORMALIZE)
cmake_path(ABSOLUTE_PATH datadir BASE_DIRECTORY "${prefix}" NORMALIZE)
if(EXISTS "$ENV{DESTDIR}${bindir}/guestio-blk")
  set(description "$ENV{DESTDIR}${datadir}/qemu/vhost-user/50-guestio-blk.json")
  message(STATUS "Installing: ${description}")
  configure_file("${template}" "${description}" @ONLY)
  list(APPEND CMAKE_INSTALL_MANIFEST_FILES "${datadir}/qemu/vhost-user/50-guestio-blk.json")
endif()

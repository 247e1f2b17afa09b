# SPDX-License-Identifier: MIT
# Part of find_package(guestio).

# guestio_disk_module(NAME SOURCES files... [LIBRARIES targets...])
# Declares the module guestio-disk-NAME, file libguestio-disk-NAME.so: the disk backend that
# guestio-blk loads for the images NAME:…. One source has GUESTIO_DISK_MODULE
# (guestio/disk/registry.h). LIBRARIES are those of the backend; guestio's own are functions of
# guestio-blk, and a second copy in the module would have a state of its own.
# Installed beside guestio's modules, if the prefix is the same.
function(guestio_disk_module NAME)
  cmake_parse_arguments(MODULE "" "" "SOURCES;LIBRARIES" ${ARGN})
  if(MODULE_UNPARSED_ARGUMENTS OR NOT MODULE_SOURCES)
    message(FATAL_ERROR "guestio_disk_module(NAME SOURCES files... [LIBRARIES targets...])")
  endif()
  set(target guestio-disk-${NAME})
  add_library(${target} MODULE ${MODULE_SOURCES})
  target_compile_features(${target} PRIVATE cxx_std_23)
  # The headers alone.
  target_include_directories(${target} PRIVATE
    $<TARGET_PROPERTY:guestio::disk_remote,INTERFACE_INCLUDE_DIRECTORIES>)
  target_link_libraries(${target} PRIVATE
    ${MODULE_LIBRARIES} fmt::fmt Boost::headers PkgConfig::liburing)
  include(GNUInstallDirs)
  install(TARGETS ${target} LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}/guestio)
endfunction()

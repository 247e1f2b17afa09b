# SPDX-License-Identifier: MIT
# What `cmake --install BUILD --prefix PREFIX` installs: the declared headers and one static library
# of each room, the CMake package (guestio::base to guestio::vhost_session), guestio.pc, and the
# programs and modules that were built. Included last, when all of them are known.
# `--component NAME` installs a part, named like its package: guestio (the programs), guestio-dev
# (headers, libraries, CMake package), and one for each module, guestio-disk-nbd.
# The installation can be moved, except for the absolute path in guestio-blk's description for
# management layers.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(CMAKE_INSTALL_DEFAULT_COMPONENT_NAME guestio-dev)
get_property(rooms GLOBAL PROPERTY GUESTIO_ROOMS)
set(module_dir ${CMAKE_INSTALL_LIBDIR}/guestio)
set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/guestio)

install(TARGETS ${rooms} EXPORT guestio-targets ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR}
  FILE_SET HEADERS DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}
  FILE_SET internal DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}
  INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(EXPORT guestio-targets NAMESPACE guestio:: DESTINATION ${package_dir})

configure_package_config_file(${PROJECT_SOURCE_DIR}/cmake/guestio-config.cmake.in
  ${CMAKE_BINARY_DIR}/install/guestio-config.cmake INSTALL_DESTINATION ${package_dir}
  PATH_VARS module_dir NO_SET_AND_CHECK_MACRO)
write_basic_package_version_file(${CMAKE_BINARY_DIR}/install/guestio-config-version.cmake
  COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_BINARY_DIR}/install/guestio-config.cmake
  ${CMAKE_BINARY_DIR}/install/guestio-config-version.cmake
  ${PROJECT_SOURCE_DIR}/cmake/guestio-disk-module.cmake DESTINATION ${package_dir})
# The conformance suite, for backends outside of the tree. It needs googletest.
install(FILES ${PROJECT_SOURCE_DIR}/testing/disk_conformance.h
  ${PROJECT_SOURCE_DIR}/testing/disk_subject.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/guestio/testing)

# The linker wants a library before its dependencies: the reverse of the order of declaration.
set(pc_libraries "")
foreach(room IN LISTS rooms)
  set(pc_libraries "-l${room} ${pc_libraries}")
endforeach()
string(STRIP "${pc_libraries}" pc_libraries)
file(RELATIVE_PATH pc_prefix "/${CMAKE_INSTALL_LIBDIR}/pkgconfig" "/")
string(REGEX REPLACE "/$" "" pc_prefix "${pc_prefix}")
configure_file(${PROJECT_SOURCE_DIR}/cmake/guestio.pc.in
  ${CMAKE_BINARY_DIR}/install/guestio.pc @ONLY)
install(FILES ${CMAKE_BINARY_DIR}/install/guestio.pc
  DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)

# The installed libraries hold no intermediate form: only the g++ version that wrote it can read it,
# and any other version stops with an error.
if(CMAKE_INTERPROCEDURAL_OPTIMIZATION AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  foreach(room IN LISTS rooms)
    install(CODE "execute_process(COMMAND_ERROR_IS_FATAL ANY COMMAND ${CMAKE_OBJCOPY}
      --remove-section=.gnu.lto_* --remove-section=.gnu.debuglto_*
      \"\$ENV{DESTDIR}\${CMAKE_INSTALL_PREFIX}/${CMAKE_INSTALL_LIBDIR}/lib${room}.a\")")
  endforeach()
endif()

foreach(program guestio-blk guestio-load)
  if(TARGET ${program})
    install(TARGETS ${program} OPTIONAL COMPONENT guestio
      RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
  endif()
endforeach()
get_property(modules GLOBAL PROPERTY GUESTIO_MODULES)
foreach(module IN LISTS modules)
  install(TARGETS ${module} OPTIONAL COMPONENT ${module} LIBRARY DESTINATION ${module_dir})
endforeach()
# The description needs an absolute path, and the prefix is known only at installation.
install(CODE "set(bindir [[${CMAKE_INSTALL_BINDIR}]])
set(datadir [[${CMAKE_INSTALL_DATADIR}]])
set(template [[${PROJECT_SOURCE_DIR}/cmake/50-guestio-blk.json.in]])"
  COMPONENT guestio)
install(SCRIPT ${PROJECT_SOURCE_DIR}/cmake/install_description.cmake COMPONENT guestio)

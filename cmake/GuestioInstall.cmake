# SPDX-License-Identifier: MIT
# What `cmake --install BUILD --prefix PREFIX` installs: the declared headers and one static library
# of each room, the CMake package (guestio::base to guestio::vhost_session), guestio.pc, and the
# programs that were built. Included last, when all rooms and programs are known.
# The installation can be moved, except for the absolute path in guestio-blk's description for
# management layers.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

get_property(rooms GLOBAL PROPERTY GUESTIO_ROOMS)
set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/guestio)

install(TARGETS ${rooms} EXPORT guestio-targets ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR}
  FILE_SET HEADERS DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}
  FILE_SET internal DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}
  INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(EXPORT guestio-targets NAMESPACE guestio:: DESTINATION ${package_dir})

configure_package_config_file(${PROJECT_SOURCE_DIR}/cmake/guestio-config.cmake.in
  ${CMAKE_BINARY_DIR}/install/guestio-config.cmake INSTALL_DESTINATION ${package_dir}
  NO_SET_AND_CHECK_MACRO)
write_basic_package_version_file(${CMAKE_BINARY_DIR}/install/guestio-config-version.cmake
  COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_BINARY_DIR}/install/guestio-config.cmake
  ${CMAKE_BINARY_DIR}/install/guestio-config-version.cmake DESTINATION ${package_dir})

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
    install(TARGETS ${program} OPTIONAL RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
  endif()
endforeach()
# The description needs an absolute path, and the prefix is known only at installation.
install(CODE "set(bindir [[${CMAKE_INSTALL_BINDIR}]])
set(datadir [[${CMAKE_INSTALL_DATADIR}]])
set(template [[${PROJECT_SOURCE_DIR}/cmake/50-guestio-blk.json.in]])")
install(SCRIPT ${PROJECT_SOURCE_DIR}/cmake/install_description.cmake)

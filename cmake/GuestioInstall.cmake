# SPDX-License-Identifier: MIT
# What `cmake --install BUILD --prefix PLACE` puts where: headers, one static library for each room,
# the CMake package (guestio::base … guestio::vhost_session), guestio.pc, and the programs that were built.
# Included last, when all rooms and programs are known. Everything may be moved afterwards, but for
# the path in the description of guestio-blk that management layers read.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

get_property(rooms GLOBAL PROPERTY GUESTIO_ROOMS)
set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/guestio)

install(DIRECTORY ${PROJECT_SOURCE_DIR}/guestio DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}
  FILES_MATCHING PATTERN "*.h" PATTERN "*_test.h" EXCLUDE PATTERN test EXCLUDE)
install(TARGETS ${rooms} EXPORT guestio-targets ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR}
  INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(EXPORT guestio-targets NAMESPACE guestio:: DESTINATION ${package_dir})

configure_package_config_file(${PROJECT_SOURCE_DIR}/cmake/guestio-config.cmake.in
  ${CMAKE_BINARY_DIR}/install/guestio-config.cmake INSTALL_DESTINATION ${package_dir}
  NO_SET_AND_CHECK_MACRO)
write_basic_package_version_file(${CMAKE_BINARY_DIR}/install/guestio-config-version.cmake
  COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_BINARY_DIR}/install/guestio-config.cmake
  ${CMAKE_BINARY_DIR}/install/guestio-config-version.cmake DESTINATION ${package_dir})

# A library stands before those that it needs, which is the reverse of the order of declaration.
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

# Only the very version of g++ that wrote its intermediate form can read it, and any other one that
# meets it stops: what is installed does not have it.
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
# Where the programs go is known only now, and the description wants an absolute path.
install(CODE "set(bindir [[${CMAKE_INSTALL_BINDIR}]])
set(datadir [[${CMAKE_INSTALL_DATADIR}]])
set(template [[${PROJECT_SOURCE_DIR}/cmake/50-guestio-blk.json.in]])")
install(SCRIPT ${PROJECT_SOURCE_DIR}/cmake/install_description.cmake)

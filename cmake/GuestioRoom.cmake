# SPDX-License-Identifier: MIT
# One folder is one library: how rooms, programs and their tests are declared.

set(CMAKE_CXX_STANDARD 23)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)

option(GUESTIO_WERROR "Treat warnings as errors" ON)
set(GUESTIO_SANITIZE "" CACHE STRING "Sanitizers to build with, as for -fsanitize=")
# For builds that run once: each test program is compiled without optimisation and is one ctest.
string(COMPARE NOTEQUAL "${GUESTIO_SANITIZE}" "" is_quick_build)
option(GUESTIO_QUICK_BUILD "Minimise compile time" ${is_quick_build})
# Includes dominate compile time, so each room and program is one translation unit. Preset dev makes
# units of some files, for quick rebuilds after an edit.
option(GUESTIO_UNITY "Compile rooms and programs as unity builds" ON)
set(files_per_unit 6)
if(GUESTIO_QUICK_BUILD OR CMAKE_BUILD_TYPE STREQUAL "Release")
  set(files_per_unit 0)
endif()
option(GUESTIO_UNITY_TESTS "Compile tests as unity builds" ON)

# guestio_unity_build(TARGET IS_ENABLED [FILES]): FILES sources make one translation unit; without
# FILES all sources make one.
function(guestio_unity_build TARGET IS_ENABLED)
  set(files 0)
  if(ARGC GREATER 2)
    set(files ${ARGV2})
  endif()
  set_target_properties(${TARGET} PROPERTIES
    UNITY_BUILD "${IS_ENABLED}" UNITY_BUILD_BATCH_SIZE ${files})
  # Coroutine frames hold types of unnamed namespaces: g++ warns about them outside the main file.
  if(IS_ENABLED AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    target_compile_options(${TARGET} PRIVATE -Wno-subobject-linkage)
  endif()
endfunction()
option(GUESTIO_COVERAGE "Build for coverage reports" OFF)
option(GUESTIO_LIBRARY_CHECKS "Let libstdc++ check indices, ranges and preconditions" OFF)
option(GUESTIO_FUZZERS "Build the libFuzzer programs (clang only)" OFF)

add_library(guestio_flags INTERFACE)
target_compile_options(guestio_flags INTERFACE
  -Wall -Wextra -Wconversion $<$<BOOL:${GUESTIO_WERROR}>:-Werror>)
if(GUESTIO_SANITIZE)
  add_compile_options(-fsanitize=${GUESTIO_SANITIZE} -fno-omit-frame-pointer
    -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${GUESTIO_SANITIZE})
endif()
# In all targets or in none: a template that a room and its test instantiate is linked once.
if(GUESTIO_LIBRARY_CHECKS)
  add_compile_definitions(_GLIBCXX_ASSERTIONS)
endif()
if(GUESTIO_COVERAGE)
  add_compile_options(--coverage)
  add_link_options(--coverage)
endif()

# guestio_room(NAME [PUBLIC_HEADERS files...] [INTERNAL_HEADERS files...] SOURCES files...
#   [DEPENDS targets...] [TESTS files...] [TEST_DEPENDS targets...]
#   [TEST_OPTIONS options of guestio_test...] [MODULE_LIBRARIES libraries...])
# NAME may hold a slash (disk/file); the target is guestio_disk_file, its alias guestio::disk_file.
# PUBLIC_HEADERS are for users: installed, documented, stable as docs/embedding.md says.
# INTERNAL_HEADERS are installed because public headers include them, and promise nothing.
# All other headers stay in the tree. tools/check_includes.py checks both lists.
# MODULE_LIBRARIES: the room is part of a module with these libraries (guestio_module), and is not
# installed itself.
# TESTS become one program, run by ctest. A room is declared after the rooms that it depends on,
# because rooms are installed (GuestioInstall.cmake).
function(guestio_room NAME)
  cmake_parse_arguments(ROOM "" ""
    "PUBLIC_HEADERS;INTERNAL_HEADERS;SOURCES;DEPENDS;TESTS;TEST_DEPENDS;TEST_OPTIONS;MODULE_LIBRARIES"
    ${ARGN})
  string(REPLACE "/" "_" flat ${NAME})
  set(target guestio_${flat})
  add_library(${target} STATIC ${ROOM_SOURCES})
  add_library(guestio::${flat} ALIAS ${target})
  target_include_directories(${target} PUBLIC $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}>)
  # Not PROJECT_SOURCE_DIR: tests/aarch64 builds rooms from a project of its own.
  cmake_path(GET CMAKE_CURRENT_FUNCTION_LIST_DIR PARENT_PATH tree)
  target_sources(${target}
    PUBLIC FILE_SET HEADERS BASE_DIRS ${tree} FILES ${ROOM_PUBLIC_HEADERS}
    PUBLIC FILE_SET internal TYPE HEADERS BASE_DIRS ${tree} FILES ${ROOM_INTERNAL_HEADERS})
  target_compile_features(${target} PUBLIC cxx_std_23)
  target_link_libraries(${target} PUBLIC ${ROOM_DEPENDS} PRIVATE $<BUILD_INTERFACE:guestio_flags>)
  set_target_properties(${target} PROPERTIES EXPORT_NAME ${flat})
  if(ROOM_MODULE_LIBRARIES)
    target_link_libraries(${target} PUBLIC ${ROOM_MODULE_LIBRARIES})
    set_target_properties(${target} PROPERTIES MODULE_LIBRARIES "${ROOM_MODULE_LIBRARIES}")
  else()
    set_property(GLOBAL APPEND PROPERTY GUESTIO_ROOMS ${target})
  endif()
  # With link-time optimisation (release) objects hold machine code and g++'s intermediate form. Our
  # programs are linked from the intermediate form; installed libraries keep the machine code only.
  # Other compilers have no such fat objects, so their rooms are built without it.
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    target_compile_options(${target} PRIVATE
      $<$<BOOL:$<TARGET_PROPERTY:INTERPROCEDURAL_OPTIMIZATION>>:-ffat-lto-objects>)
  else()
    set_target_properties(${target} PROPERTIES INTERPROCEDURAL_OPTIMIZATION OFF)
  endif()
  guestio_unity_build(${target} ${GUESTIO_UNITY} ${files_per_unit})
  if(GUESTIO_FUZZERS)
    target_compile_options(${target} PRIVATE -fsanitize=fuzzer-no-link)
  endif()
  if(ROOM_TESTS)
    guestio_test(${target}_test SOURCES ${ROOM_TESTS} DEPENDS ${target} ${ROOM_TEST_DEPENDS}
      PREFIX ${NAME}. ${ROOM_TEST_OPTIONS})
  endif()
endfunction()

# guestio_module(NAME ROOM): the module libguestio-disk-NAME.so of a disk backend in the library ROOM.
# It contains the room alone; the rooms below are functions of the program that loads it
# (guestio_loads_modules).
function(guestio_module NAME ROOM)
  set(target guestio-disk-${NAME})
  add_library(${target} MODULE $<TARGET_OBJECTS:${ROOM}>)
  target_link_libraries(${target} PRIVATE $<TARGET_PROPERTY:${ROOM},MODULE_LIBRARIES> guestio_flags)
  set_target_properties(${target} PROPERTIES
    LINKER_LANGUAGE CXX INTERPROCEDURAL_OPTIMIZATION OFF
    LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/${CMAKE_INSTALL_LIBDIR}/guestio)
  set_property(GLOBAL APPEND PROPERTY GUESTIO_MODULES ${target})
endfunction()

# guestio_loads_modules(TARGET): the program gives modules the functions of all rooms that a backend
# may use, whether it uses them itself or not. The modules are built with it.
function(guestio_loads_modules TARGET)
  set(rooms guestio_base guestio_task guestio_mem guestio_uring guestio_buf guestio_disk
    guestio_disk_guard guestio_disk_remote)
  foreach(room IN LISTS rooms)
    target_sources(${TARGET} PRIVATE $<TARGET_OBJECTS:${room}>)
    target_link_libraries(${TARGET} PRIVATE ${room})
  endforeach()
  target_link_options(${TARGET} PRIVATE
    -Wl,--dynamic-list=${PROJECT_SOURCE_DIR}/cmake/module_interface.ld)
  set_property(TARGET ${TARGET} APPEND PROPERTY
    LINK_DEPENDS ${PROJECT_SOURCE_DIR}/cmake/module_interface.ld)
  get_property(modules GLOBAL PROPERTY GUESTIO_MODULES)
  if(modules)
    add_dependencies(${TARGET} ${modules})
  endif()
endfunction()

# guestio_test_options(TARGET): compile options of tests and of their precompiled headers. The last
# two let ccache handle precompiled headers.
function(guestio_test_options TARGET)
  target_compile_options(${TARGET} PRIVATE
    $<$<BOOL:${GUESTIO_QUICK_BUILD}>:-O0>
    $<$<CXX_COMPILER_ID:GNU>:-fpch-preprocess>
    $<$<CXX_COMPILER_ID:Clang>:SHELL:-Xclang -fno-pch-timestamp>)
endfunction()

# guestio_test(NAME SOURCES files... DEPENDS targets... [PREFIX text] [LABEL text] [EACH] [WHOLE]
#   [ONE_THREAD])
# LABEL: the ctest label of its tests, by default the folder without guestio/. The target
# tests_of_LABEL builds the programs of a label. `./dev test quick` uses both.
# EACH: each test is a ctest of its own in every build, so that long ones run in parallel.
# WHOLE: the program is one ctest in every build, because its tests share a costly server.
# ONE_THREAD: neither the tests nor the tested code start a thread; the thread sanitizer skips them.
function(guestio_test NAME)
  cmake_parse_arguments(TEST "EACH;WHOLE;ONE_THREAD" "PREFIX;LABEL" "SOURCES;DEPENDS" ${ARGN})
  if(TEST_ONE_THREAD AND GUESTIO_SANITIZE STREQUAL "thread")
    return()
  endif()
  add_executable(${NAME} ${TEST_SOURCES})
  target_link_libraries(${NAME} PRIVATE ${TEST_DEPENDS} guestio_flags GTest::gmock_main)
  target_precompile_headers(${NAME} REUSE_FROM guestio_test_headers)
  guestio_test_options(${NAME})
  guestio_unity_build(${NAME} ${GUESTIO_UNITY_TESTS} ${files_per_unit})
  if(NOT TEST_LABEL)
    file(RELATIVE_PATH TEST_LABEL ${PROJECT_SOURCE_DIR} ${CMAKE_CURRENT_SOURCE_DIR})
    string(REGEX REPLACE "^guestio/" "" TEST_LABEL ${TEST_LABEL})
  endif()
  string(REPLACE "/" "_" programs tests_of_${TEST_LABEL})
  if(NOT TARGET ${programs})
    add_custom_target(${programs})
  endif()
  add_dependencies(${programs} ${NAME})
  if(TEST_WHOLE OR (GUESTIO_QUICK_BUILD AND NOT TEST_EACH))
    add_test(NAME ${NAME} COMMAND ${NAME})
    set_tests_properties(${NAME} PROPERTIES LABELS ${TEST_LABEL})
    return()
  endif()
  gtest_discover_tests(${NAME} TEST_PREFIX "${TEST_PREFIX}" DISCOVERY_TIMEOUT 300
    PROPERTIES LABELS ${TEST_LABEL})
endfunction()

# guestio_fuzzer(NAME DEPENDS targets... [SOURCES files...] [RUNS number])
# The libFuzzer program bin/fuzz_NAME of NAME_fuzz.cc, part of the target `fuzzers`. Its test makes
# RUNS runs (3000) from the inputs in corpus/NAME. New inputs stay in the build directory.
function(guestio_fuzzer NAME)
  cmake_parse_arguments(FUZZER "" "RUNS" "DEPENDS;SOURCES" ${ARGN})
  if(NOT FUZZER_RUNS)
    set(FUZZER_RUNS 3000)
  endif()
  set(program fuzz_${NAME})
  add_executable(${program} ${NAME}_fuzz.cc ${FUZZER_SOURCES})
  target_include_directories(${program} PRIVATE ${PROJECT_SOURCE_DIR})
  target_link_libraries(${program} PRIVATE ${FUZZER_DEPENDS} guestio_flags)
  target_compile_options(${program} PRIVATE -fsanitize=fuzzer-no-link)
  target_link_options(${program} PRIVATE -fsanitize=fuzzer)
  add_dependencies(fuzzers ${program})
  set(found ${CMAKE_CURRENT_BINARY_DIR}/found/${NAME})
  file(MAKE_DIRECTORY ${found} ${CMAKE_BINARY_DIR}/crashes)
  add_test(NAME fuzz.${NAME}
    COMMAND ${program} -runs=${FUZZER_RUNS} -timeout=60
      -artifact_prefix=${CMAKE_BINARY_DIR}/crashes/${NAME}-
      ${found} ${CMAKE_CURRENT_SOURCE_DIR}/corpus/${NAME})
endfunction()

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
# For builds that are made to be run once: tests are not optimised, and run all at once.
string(COMPARE NOTEQUAL "${GUESTIO_SANITIZE}" "" is_run_once)
option(GUESTIO_QUICK_BUILD "Spend as little of the compiler's time as possible" ${is_run_once})
# Most of what it takes to compile a file is what it includes, so rooms and programs are one
# translation unit each; where people work on them (preset dev), some files make one.
option(GUESTIO_UNITY "Compile rooms and programs in few pieces" ON)
set(files_of_a_piece 6)
if(GUESTIO_QUICK_BUILD OR CMAKE_BUILD_TYPE STREQUAL "Release")
  set(files_of_a_piece 0)
endif()
# The tests of a room are one everywhere.
option(GUESTIO_UNITY_TESTS "Compile each program of tests in one piece" ON)

# guestio_in_one_piece(TARGET IS_WANTED [FILES]): so many of its sources are one translation unit, or
# all of them.
function(guestio_in_one_piece TARGET IS_WANTED)
  set(files 0)
  if(ARGC GREATER 2)
    set(files ${ARGV2})
  endif()
  set_target_properties(${TARGET} PROPERTIES
    UNITY_BUILD "${IS_WANTED}" UNITY_BUILD_BATCH_SIZE ${files})
  # Coroutines keep types of their file's own: g++ warns when that file is not the main one.
  if(IS_WANTED AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
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
# Everywhere or nowhere: what both a room and its test instantiate is linked once.
if(GUESTIO_LIBRARY_CHECKS)
  add_compile_definitions(_GLIBCXX_ASSERTIONS)
endif()
if(GUESTIO_COVERAGE)
  add_compile_options(--coverage)
  add_link_options(--coverage)
endif()

# guestio_room(NAME SOURCES files... [DEPENDS targets...] [TESTS files...] [TEST_DEPENDS targets...]
#   [TEST_OPTIONS options of guestio_test...])
# NAME may hold a slash (disk/file); the target is guestio_disk_file, its alias guestio::disk_file.
# Every header of the folder is part of the interface. TESTS become one program, run by ctest.
# Rooms are installed (GuestioInstall.cmake), so a room is declared after those that it depends on.
function(guestio_room NAME)
  cmake_parse_arguments(ROOM "" "" "SOURCES;DEPENDS;TESTS;TEST_DEPENDS;TEST_OPTIONS" ${ARGN})
  string(REPLACE "/" "_" flat ${NAME})
  set(target guestio_${flat})
  add_library(${target} STATIC ${ROOM_SOURCES})
  add_library(guestio::${flat} ALIAS ${target})
  target_include_directories(${target} PUBLIC $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}>)
  target_compile_features(${target} PUBLIC cxx_std_23)
  target_link_libraries(${target} PUBLIC ${ROOM_DEPENDS} PRIVATE $<BUILD_INTERFACE:guestio_flags>)
  set_target_properties(${target} PROPERTIES EXPORT_NAME ${flat})
  set_property(GLOBAL APPEND PROPERTY GUESTIO_ROOMS ${target})
  # With link-time optimisation (release) the objects hold machine code beside g++'s intermediate
  # form: our programs are linked from the latter, the installed libraries keep the former only.
  # Other compilers' intermediate form has no such twin, so with them rooms do without.
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    target_compile_options(${target} PRIVATE
      $<$<BOOL:$<TARGET_PROPERTY:INTERPROCEDURAL_OPTIMIZATION>>:-ffat-lto-objects>)
  else()
    set_target_properties(${target} PROPERTIES INTERPROCEDURAL_OPTIMIZATION OFF)
  endif()
  guestio_in_one_piece(${target} ${GUESTIO_UNITY} ${files_of_a_piece})
  if(GUESTIO_FUZZERS)
    target_compile_options(${target} PRIVATE -fsanitize=fuzzer-no-link)
  endif()
  if(ROOM_TESTS)
    guestio_test(${target}_test SOURCES ${ROOM_TESTS} DEPENDS ${target} ${ROOM_TEST_DEPENDS}
      PREFIX ${NAME}. ${ROOM_TEST_OPTIONS})
  endif()
endfunction()

# guestio_test_options(TARGET): what tests and the headers that they share are compiled with. The
# last two let ccache see through compiled headers.
function(guestio_test_options TARGET)
  target_compile_options(${TARGET} PRIVATE
    $<$<BOOL:${GUESTIO_QUICK_BUILD}>:-O0>
    $<$<CXX_COMPILER_ID:GNU>:-fpch-preprocess>
    $<$<CXX_COMPILER_ID:Clang>:SHELL:-Xclang -fno-pch-timestamp>)
endfunction()

# guestio_test(NAME SOURCES files... DEPENDS targets... [PREFIX text] [LABEL text] [EACH] [ONE_THREAD])
# LABEL: what ctest selects its tests by, the folder (without guestio/) unless another one is given.
# The target tests_of_LABEL builds the programs of a label; `./dev test quick` uses both.
# EACH: its tests run one by one whatever the build, so that long ones run side by side.
# ONE_THREAD: neither the tests nor what they test start a thread: there is nothing in them for the
# thread sanitizer.
function(guestio_test NAME)
  cmake_parse_arguments(TEST "EACH;ONE_THREAD" "PREFIX;LABEL" "SOURCES;DEPENDS" ${ARGN})
  if(TEST_ONE_THREAD AND GUESTIO_SANITIZE STREQUAL "thread")
    return()
  endif()
  add_executable(${NAME} ${TEST_SOURCES})
  target_link_libraries(${NAME} PRIVATE ${TEST_DEPENDS} guestio_flags GTest::gmock_main)
  target_precompile_headers(${NAME} REUSE_FROM guestio_test_headers)
  guestio_test_options(${NAME})
  guestio_in_one_piece(${NAME} ${GUESTIO_UNITY_TESTS})
  if(NOT TEST_LABEL)
    file(RELATIVE_PATH TEST_LABEL ${PROJECT_SOURCE_DIR} ${CMAKE_CURRENT_SOURCE_DIR})
    string(REGEX REPLACE "^guestio/" "" TEST_LABEL ${TEST_LABEL})
  endif()
  string(REPLACE "/" "_" programs tests_of_${TEST_LABEL})
  if(NOT TARGET ${programs})
    add_custom_target(${programs})
  endif()
  add_dependencies(${programs} ${NAME})
  if(GUESTIO_QUICK_BUILD AND NOT TEST_EACH)
    add_test(NAME ${NAME} COMMAND ${NAME})
    return()
  endif()
  gtest_discover_tests(${NAME} TEST_PREFIX "${TEST_PREFIX}" DISCOVERY_TIMEOUT 300
    PROPERTIES LABELS ${TEST_LABEL})
endfunction()

# guestio_fuzzer(NAME DEPENDS targets... [SOURCES files...] [RUNS number])
# The libFuzzer program bin/fuzz_NAME of NAME_fuzz.cc, part of the target `fuzzers`. Its test makes
# RUNS (3000) of it from the inputs in corpus/NAME; what it finds stays in the build directory.
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

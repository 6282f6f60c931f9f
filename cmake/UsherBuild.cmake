# How everything here is compiled: warnings, sanitizers, and the helpers that rooms use.
#
#   usher_library(NAME SOURCES ... [DEPENDS ...])   a static library of one room
#   usher_engine(NAME SOURCES ...)                  engines/NAME.so, NAME_engine (static, for simulator and tests)
#                                                  and NAME_next (tests/engines-next/NAME.so, of another layout)

find_package(PkgConfig REQUIRED)
find_program(CCACHE ccache)
if(CCACHE)
  set(CMAKE_C_COMPILER_LAUNCHER ${CCACHE})
endif()

set(USHER_SANITIZE "" CACHE STRING "sanitizers for every target: address,undefined or thread")

add_library(usher_flags INTERFACE)
target_include_directories(usher_flags INTERFACE ${CMAKE_SOURCE_DIR})
target_compile_definitions(usher_flags INTERFACE _GNU_SOURCE USHER_VERSION="${PROJECT_VERSION}")
target_compile_options(usher_flags INTERFACE
  -Wall -Wextra -Wshadow -Wconversion -Wno-sign-conversion -Wstrict-prototypes -Wmissing-prototypes -Wvla
  -Wpointer-arith -Wwrite-strings -Wundef -Werror -fno-strict-aliasing -fvisibility=hidden
  -ffile-prefix-map=${CMAKE_SOURCE_DIR}/=)
target_compile_options(usher_flags INTERFACE $<$<CONFIG:RelWithDebInfo>:-O2> $<$<CONFIG:RelWithDebInfo>:-g>
  $<$<CONFIG:RelWithDebInfo>:-fstack-protector-strong>)
target_compile_definitions(usher_flags INTERFACE $<$<CONFIG:Debug>:USHER_DCHECK>)
if(USHER_SANITIZE)
  # A target with the property USHER_PLAIN is built without.
  set(sanitized "$<NOT:$<BOOL:$<TARGET_PROPERTY:USHER_PLAIN>>>")
  target_compile_options(usher_flags INTERFACE $<${sanitized}:-fsanitize=${USHER_SANITIZE}>
    $<${sanitized}:-fno-sanitize-recover=all> -fno-omit-frame-pointer)
  target_link_options(usher_flags INTERFACE $<${sanitized}:-fsanitize=${USHER_SANITIZE}>)
  if(USHER_SANITIZE MATCHES "thread")
    target_compile_options(usher_flags INTERFACE -Wno-tsan)
  endif()
endif()

function(usher_library name)
  cmake_parse_arguments(A "" "" "SOURCES;DEPENDS" ${ARGN})
  add_library(${name} STATIC ${A_SOURCES})
  target_link_libraries(${name} PUBLIC usher_flags ${A_DEPENDS})
endfunction()

# The module the daemon loads holds nothing but the engine: no start files, no writable data. Sanitizer builds compile
# the same sources; their modules are for the sanitized daemon.
function(usher_engine name)
  cmake_parse_arguments(A "" "" "SOURCES" ${ARGN})
  add_library(${name}_engine STATIC ${A_SOURCES})
  target_link_libraries(${name}_engine PUBLIC usher_flags)
  target_compile_definitions(${name}_engine PRIVATE usher_engine=usher_engine_${name})
  add_library(${name}_module MODULE ${A_SOURCES})
  target_link_libraries(${name}_module PRIVATE usher_flags)
  set_target_properties(${name}_module PROPERTIES PREFIX "" OUTPUT_NAME ${name}
    LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/lib/engines)
  target_link_options(${name}_module PRIVATE -Wl,-z,relro,-z,now)
  # The next version, of another layout, for tests of upgrades: see engines/arena.h.
  add_library(${name}_next MODULE ${A_SOURCES})
  target_link_libraries(${name}_next PRIVATE usher_flags)
  target_compile_definitions(${name}_next PRIVATE ARENA_UNDO_MAX=320 ARENA_LAYOUT_STEP=1u)
  set_target_properties(${name}_next PROPERTIES PREFIX "" OUTPUT_NAME ${name}
    LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests/engines-next)
  if(NOT USHER_SANITIZE)
    target_link_options(${name}_module PRIVATE -nostartfiles)
  endif()
endfunction()

# For a test that upgrades engines: ENGINES and NEXT are the folders of their two versions.
function(usher_engine_versions test)
  target_compile_definitions(${test} PRIVATE ENGINES="${CMAKE_BINARY_DIR}/lib/engines"
    NEXT="${CMAKE_BINARY_DIR}/tests/engines-next")
  foreach(e ${ARGN})
    add_dependencies(${test} ${e}_module ${e}_next)
  endforeach()
endfunction()

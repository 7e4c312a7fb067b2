# Builds the library with cargo, and has it as the targets gpu_events::gpu_events (shared) and gpu_events::gpu_events_static.

set(gpu_events_cargo_default cargo)
if(DEFINED ENV{CARGO})
  set(gpu_events_cargo_default "$ENV{CARGO}")
endif()
find_program(GPU_EVENTS_CARGO NAMES "${gpu_events_cargo_default}" PATHS "$ENV{HOME}/.cargo/bin" REQUIRED DOC "cargo")

set(gpu_events_cargo_dir_default "${CMAKE_CURRENT_BINARY_DIR}/cargo")
if(DEFINED ENV{CARGO_TARGET_DIR})
  set(gpu_events_cargo_dir_default "$ENV{CARGO_TARGET_DIR}")
endif()
set(GPU_EVENTS_CARGO_TARGET_DIR "${gpu_events_cargo_dir_default}" CACHE PATH "Where cargo builds")

# What the names of the files are made of. A cross build goes by its target, and any other by this system.
if(GPU_EVENTS_RUST_TARGET)
  set(gpu_events_system "${GPU_EVENTS_RUST_TARGET}")
else()
  set(gpu_events_system "${CMAKE_SYSTEM_NAME}")
endif()
string(TOLOWER "${gpu_events_system}" gpu_events_system)
# What stands for the interface: before 1.0 a minor version may break it. As build.rs has it.
set(gpu_events_soversion "${PROJECT_VERSION_MAJOR}")
if(PROJECT_VERSION_MAJOR EQUAL 0)
  string(APPEND gpu_events_soversion ".${PROJECT_VERSION_MINOR}")
endif()
set(gpu_events_import_library "")
if(gpu_events_system MATCHES "apple|darwin|ios")
  set(gpu_events_cargo_shared libgpuevents.dylib)
  set(gpu_events_shared_names "libgpuevents.${PROJECT_VERSION}.dylib" "libgpuevents.${gpu_events_soversion}.dylib"
                              libgpuevents.dylib)
  set(gpu_events_static_name libgpuevents.a)
  set(GPU_EVENTS_SYSTEM_LIBS objc iconv "-framework Foundation" "-framework CoreFoundation" "-framework Metal")
elseif(gpu_events_system MATCHES "windows")
  set(gpu_events_cargo_shared gpuevents.dll)
  set(gpu_events_shared_names gpuevents.dll)
  if(gpu_events_system MATCHES "gnu" OR MINGW)
    set(gpu_events_import_library libgpuevents.dll.a)
    set(gpu_events_static_name libgpuevents.a)
  else()
    set(gpu_events_import_library gpuevents.dll.lib)
    set(gpu_events_static_name gpuevents.lib)
  endif()
  set(GPU_EVENTS_SYSTEM_LIBS kernel32 ntdll userenv ws2_32 dbghelp bcrypt advapi32)
else()
  set(gpu_events_cargo_shared libgpuevents.so)
  set(gpu_events_shared_names "libgpuevents.so.${PROJECT_VERSION}" "libgpuevents.so.${gpu_events_soversion}"
                              libgpuevents.so)
  set(gpu_events_static_name libgpuevents.a)
  # As `rustc --print native-static-libs` has it, but what every program is linked with.
  set(GPU_EVENTS_SYSTEM_LIBS gcc_s util rt pthread m dl)
endif()
list(GET gpu_events_shared_names 0 gpu_events_shared_name)

set(gpu_events_cargo_args build --package gpu-events-capi --manifest-path "${PROJECT_SOURCE_DIR}/Cargo.toml")
set(gpu_events_cargo_out "${GPU_EVENTS_CARGO_TARGET_DIR}")
if(GPU_EVENTS_RUST_TARGET)
  list(APPEND gpu_events_cargo_args --target "${GPU_EVENTS_RUST_TARGET}")
  string(APPEND gpu_events_cargo_out "/${GPU_EVENTS_RUST_TARGET}")
endif()
list(APPEND gpu_events_cargo_args ${GPU_EVENTS_CARGO_FLAGS})

# Cargo's files are copied to where nothing depends on a profile's name, under the names that they are installed by.
set(gpu_events_lib_dir "${CMAKE_CURRENT_BINARY_DIR}/lib")
get_property(gpu_events_multi_config GLOBAL PROPERTY GENERATOR_IS_MULTI_CONFIG)
if(gpu_events_multi_config)
  string(APPEND gpu_events_lib_dir "/$<CONFIG>")
endif()
set(gpu_events_cargo_out "${gpu_events_cargo_out}/$<IF:$<CONFIG:Debug>,debug,release>")

set(gpu_events_byproducts "${gpu_events_lib_dir}/${gpu_events_shared_name}"
                          "${gpu_events_lib_dir}/${gpu_events_static_name}")
set(gpu_events_place "")
if(gpu_events_import_library)
  list(APPEND gpu_events_byproducts "${gpu_events_lib_dir}/${gpu_events_import_library}")
  list(APPEND gpu_events_place COMMAND "${CMAKE_COMMAND}" -E copy_if_different
       "${gpu_events_cargo_out}/${gpu_events_import_library}" "${gpu_events_lib_dir}/${gpu_events_import_library}")
endif()
foreach(link IN LISTS gpu_events_shared_names)
  if(NOT link STREQUAL gpu_events_shared_name)
    list(APPEND gpu_events_place COMMAND "${CMAKE_COMMAND}" -E create_symlink "${gpu_events_shared_name}"
         "${gpu_events_lib_dir}/${link}")
  endif()
endforeach()

# Always run: cargo itself knows whether there is anything to do. Of make's jobs, which it gets no share of, it is not told.
add_custom_target(gpu_events_cargo ALL
  COMMAND "${CMAKE_COMMAND}" -E env --unset=MAKEFLAGS --unset=MFLAGS "CARGO_TARGET_DIR=${GPU_EVENTS_CARGO_TARGET_DIR}"
          "${GPU_EVENTS_CARGO}" ${gpu_events_cargo_args} --profile "$<IF:$<CONFIG:Debug>,dev,release>"
  COMMAND "${CMAKE_COMMAND}" -E make_directory "${gpu_events_lib_dir}"
  COMMAND "${CMAKE_COMMAND}" -E copy_if_different "${gpu_events_cargo_out}/${gpu_events_cargo_shared}"
          "${gpu_events_lib_dir}/${gpu_events_shared_name}"
  COMMAND "${CMAKE_COMMAND}" -E copy_if_different "${gpu_events_cargo_out}/${gpu_events_static_name}"
          "${gpu_events_lib_dir}/${gpu_events_static_name}"
  ${gpu_events_place}
  BYPRODUCTS ${gpu_events_byproducts}
  COMMENT "Building libgpuevents with cargo"
  USES_TERMINAL
  VERBATIM)

function(gpu_events_import target type name)
  add_library(${target} ${type} IMPORTED GLOBAL)
  add_dependencies(${target} gpu_events_cargo)
  set_target_properties(${target} PROPERTIES
    INTERFACE_INCLUDE_DIRECTORIES "${PROJECT_SOURCE_DIR}/include"
    INTERFACE_COMPILE_FEATURES "c_std_99;cxx_std_17")
  if(gpu_events_multi_config)
    foreach(config IN LISTS CMAKE_CONFIGURATION_TYPES)
      string(TOUPPER "${config}" upper)
      set(dir "${CMAKE_CURRENT_BINARY_DIR}/lib/${config}")
      set_target_properties(${target} PROPERTIES IMPORTED_LOCATION_${upper} "${dir}/${name}")
      if(type STREQUAL "SHARED" AND gpu_events_import_library)
        set_target_properties(${target} PROPERTIES IMPORTED_IMPLIB_${upper} "${dir}/${gpu_events_import_library}")
      endif()
    endforeach()
  else()
    set_target_properties(${target} PROPERTIES IMPORTED_LOCATION "${gpu_events_lib_dir}/${name}")
    if(type STREQUAL "SHARED" AND gpu_events_import_library)
      set_target_properties(${target} PROPERTIES IMPORTED_IMPLIB "${gpu_events_lib_dir}/${gpu_events_import_library}")
    endif()
  endif()
endfunction()

gpu_events_import(gpu_events::gpu_events SHARED "${gpu_events_shared_name}")
gpu_events_import(gpu_events::gpu_events_static STATIC "${gpu_events_static_name}")
if(gpu_events_system MATCHES "apple|darwin|ios")
  set_target_properties(gpu_events::gpu_events PROPERTIES
    IMPORTED_SONAME "@rpath/libgpuevents.${gpu_events_soversion}.dylib")
elseif(NOT gpu_events_system MATCHES "windows")
  set_target_properties(gpu_events::gpu_events PROPERTIES IMPORTED_SONAME "libgpuevents.so.${gpu_events_soversion}")
endif()
set_target_properties(gpu_events::gpu_events_static PROPERTIES INTERFACE_LINK_LIBRARIES "${GPU_EVENTS_SYSTEM_LIBS}")

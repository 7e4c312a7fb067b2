# Installs headers, libraries, the package for find_package(gpu_events) and the file for pkg-config.
include(CMakePackageConfigHelpers)

install(FILES include/gpu_events.h include/gpu_events.hpp DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}")
install(FILES include/gpu_events/mps.hpp DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}/gpu_events")

set(gpu_events_shared_dir "${CMAKE_INSTALL_LIBDIR}")
if(gpu_events_system MATCHES "windows")
  set(gpu_events_shared_dir "${CMAKE_INSTALL_BINDIR}")
  install(FILES "${gpu_events_lib_dir}/${gpu_events_import_library}" DESTINATION "${CMAKE_INSTALL_LIBDIR}")
endif()
# Links among the names are installed as links.
foreach(name IN LISTS gpu_events_shared_names)
  install(PROGRAMS "${gpu_events_lib_dir}/${name}" DESTINATION "${gpu_events_shared_dir}")
endforeach()
install(FILES "${gpu_events_lib_dir}/${gpu_events_static_name}" DESTINATION "${CMAKE_INSTALL_LIBDIR}")

set(gpu_events_package_dir "${CMAKE_INSTALL_LIBDIR}/cmake/gpu_events")
configure_package_config_file(cmake/gpu_events-config.cmake.in gpu_events-config.cmake
  INSTALL_DESTINATION "${gpu_events_package_dir}"
  PATH_VARS CMAKE_INSTALL_INCLUDEDIR CMAKE_INSTALL_LIBDIR gpu_events_shared_dir)
# Before 1.0 a minor version may break what the one before promised.
write_basic_package_version_file(gpu_events-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES "${CMAKE_CURRENT_BINARY_DIR}/gpu_events-config.cmake"
              "${CMAKE_CURRENT_BINARY_DIR}/gpu_events-config-version.cmake"
        DESTINATION "${gpu_events_package_dir}")

# Relative to the file itself, so that an installed tree can be moved; where the directory was given as an absolute path, that.
foreach(kind IN ITEMS INCLUDEDIR LIBDIR)
  if(IS_ABSOLUTE "${CMAKE_INSTALL_${kind}}")
    set(gpu_events_pc_${kind} "${CMAKE_INSTALL_${kind}}")
  else()
    set(gpu_events_pc_${kind} "\${prefix}/${CMAKE_INSTALL_${kind}}")
  endif()
endforeach()
if(IS_ABSOLUTE "${CMAKE_INSTALL_LIBDIR}")
  set(gpu_events_pc_prefix "${CMAKE_INSTALL_PREFIX}")
else()
  file(RELATIVE_PATH gpu_events_pc_prefix "/${CMAKE_INSTALL_LIBDIR}/pkgconfig" "/")
  string(REGEX REPLACE "/$" "" gpu_events_pc_prefix "${gpu_events_pc_prefix}")
  set(gpu_events_pc_prefix "\${pcfiledir}/${gpu_events_pc_prefix}")
endif()
set(gpu_events_pc_private "")
foreach(library IN LISTS GPU_EVENTS_SYSTEM_LIBS)
  if(library MATCHES "^-")
    string(APPEND gpu_events_pc_private " ${library}")
  else()
    string(APPEND gpu_events_pc_private " -l${library}")
  endif()
endforeach()
configure_file(gpu-events.pc.in gpu-events.pc @ONLY)
install(FILES "${CMAKE_CURRENT_BINARY_DIR}/gpu-events.pc" DESTINATION "${CMAKE_INSTALL_LIBDIR}/pkgconfig")

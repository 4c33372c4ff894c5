//! What a system wants to be asked for first. What is particular to one system about it is in this file.

/// Asks for the registers of AMX, 8 KiB that Linux keeps for each thread of a process that did; says whether we may use
/// them. (`arch_prctl(2)`, and `Documentation/arch/x86/xstate.rst` of the kernel.)
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub(crate) fn to_use_tiles() -> bool {
    use nix::libc;
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILE_DATA: libc::c_long = 18;
    // SAFETY: a request that takes two numbers and touches no memory.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILE_DATA) == 0 }
}

/// We do not know whom to ask.
#[cfg(all(not(target_os = "linux"), target_arch = "x86_64"))]
pub(crate) fn to_use_tiles() -> bool {
    false
}

//! This process's memory: madvise(2), dl_iterate_phdr(3).
#![allow(unsafe_code)]

use libc::{c_int, c_void, dl_phdr_info, size_t};

/// Takes the pages of this program's code and constants out of this process's page tables; the page cache
/// keeps them, and what is used again is mapped again. For a process that has done most of its work and
/// stays: of some megabytes it then needs some hundred kilobytes.
pub fn release_program() {
    // SAFETY: the callback is called during this call only, and uses no data.
    unsafe { libc::dl_iterate_phdr(Some(release), std::ptr::null_mut()) };
}

/// The first object is the program; it is the only one of a static executable.
unsafe extern "C" fn release(info: *mut dl_phdr_info, _: size_t, _: *mut c_void) -> c_int {
    const STOP: c_int = 1;
    // SAFETY: dl_iterate_phdr passes a whole structure.
    let info = unsafe { &*info };
    // SAFETY: it describes the program headers of a loaded object.
    let headers = unsafe { std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()) };
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten();
    let Some(page) = page.and_then(|page| u64::try_from(page).ok()) else { return STOP };
    for header in headers {
        // Nothing but what is in the file: relocations are applied to segments that can be written.
        if header.p_type != libc::PT_LOAD || header.p_flags & libc::PF_W != 0 {
            continue;
        }
        let start = (info.dlpi_addr + header.p_vaddr) & !(page - 1);
        let end = info.dlpi_addr + header.p_vaddr + header.p_memsz;
        let length = usize::try_from(end - start).unwrap_or(0);
        // SAFETY: a private mapping of a file that was never written comes back from the file, unchanged.
        unsafe { libc::madvise(start as *mut c_void, length, libc::MADV_DONTNEED) };
    }
    STOP
}

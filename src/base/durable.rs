//! Disk writes that survive a crash (see the storage branch).

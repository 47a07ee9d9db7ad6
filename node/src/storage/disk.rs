//! The only place that changes anything on a disk: each system call that creates, writes, syncs,
//! renames or removes is one function here.
//!
//! So the tests can make the n-th of them fail, or stop the world there (see `fault` below), and
//! no path to the disk escapes them. Names are resolved by [`super::tree`]; here a directory
//! handle and one name are enough.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use dft_protocol::manifest::Mtime;
use rustix::fs::{AtFlags, FallocateFlags, Mode, OFlags, RenameFlags, Timespec, Timestamps, UTIME_OMIT};
use rustix::io::Errno;

use super::tree::resolve;

/// What a system call does, as far as the tests tell them apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::storage) enum Operation {
    /// Makes a file, a directory or a symbolic link.
    Create,
    /// Writes bytes, or sets a length.
    Write,
    /// Asks for durability.
    Sync,
    /// Gives a new name.
    Rename,
    /// Removes a name.
    Remove,
    /// Sets permissions or times.
    Attributes,
}

/// Blocks of zeros are written from here where a filesystem cannot punch holes.
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

/// Makes a directory for this user alone.
pub(super) fn make_directory(parent: impl AsFd, name: &[u8]) -> io::Result<()> {
    fault::check(Operation::Create)?;
    Ok(rustix::fs::mkdirat(parent, name, Mode::RWXU)?)
}

/// Opens the file at `path` below `directory` for reading and writing; makes it where it is
/// missing. Follows no symbolic link.
pub(super) fn open_or_create(directory: impl AsFd, path: &[u8]) -> io::Result<File> {
    fault::check(Operation::Create)?;
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NONBLOCK;
    resolve(directory, path, flags, Mode::RUSR | Mode::WUSR).map(File::from)
}

/// Makes a file called `name` in `parent` for writing, with those bits of `mode` that the umask allows; nothing
/// may have that name. One name in an open directory needs none of the care of `resolve`.
pub(super) fn create_new(parent: impl AsFd, name: &[u8], mode: u16) -> io::Result<File> {
    fault::check(Operation::Create)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(mode.into()))?))
}

/// Makes a symbolic link.
pub(super) fn make_symlink(target: &[u8], parent: impl AsFd, name: &[u8]) -> io::Result<()> {
    fault::check(Operation::Create)?;
    Ok(rustix::fs::symlinkat(target, parent, name)?)
}

/// Gives a file another name; a symbolic link is not followed.
pub(super) fn hard_link(from: (&File, &[u8]), to: (&File, &[u8])) -> io::Result<()> {
    fault::check(Operation::Create)?;
    Ok(rustix::fs::linkat(from.0, from.1, to.0, to.1, AtFlags::empty())?)
}

/// Sets the length of a file; what is added is a hole.
pub(super) fn set_length(file: &File, length: u64) -> io::Result<()> {
    fault::check(Operation::Write)?;
    retry(|| rustix::fs::ftruncate(file, length))
}

/// Writes all of `bytes` at `offset`.
pub(super) fn write_at(file: &File, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        let wanted = fault::check_write(bytes.len())?;
        let written = match rustix::io::pwrite(file, &bytes[..wanted], offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => written,
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(errno.into()),
        };
        fault::unsynced(file, offset, written);
        bytes = &bytes[written..];
        offset += written as u64;
    }
    Ok(())
}

/// Makes a file hold what another one of `length` bytes holds, by sharing its blocks: what is written to
/// either later is its own. Btrfs and XFS can, within one filesystem; elsewhere it fails.
pub(super) fn clone_file(file: &File, original: &File, length: u64) -> io::Result<()> {
    fault::check(Operation::Write)?;
    retry(|| fault::clone(file, original))?;
    fault::unsynced(file, 0, usize::try_from(length).unwrap_or(usize::MAX));
    Ok(())
}

/// Makes a range of a file read as zeros, as a hole where the filesystem can.
pub(super) fn write_zeros(file: &File, mut offset: u64, mut length: u64) -> io::Result<()> {
    fault::check(Operation::Write)?;
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    if retry(|| rustix::fs::fallocate(file, flags, offset, length)).is_ok() {
        return Ok(());
    }
    while length > 0 {
        let part = usize::try_from(length).unwrap_or(usize::MAX).min(ZEROS.len());
        write_at(file, &ZEROS[..part], offset)?;
        offset += part as u64;
        length -= part as u64;
    }
    Ok(())
}

/// Makes a file's bytes durable, and its length.
pub(super) fn sync_data(file: &File) -> io::Result<()> {
    fault::check(Operation::Sync)?;
    retry(|| rustix::fs::fdatasync(file))?;
    fault::synced(Some(file));
    Ok(())
}

/// Makes a file or a directory durable, with its attributes.
pub(super) fn sync_all(file: &File) -> io::Result<()> {
    fault::check(Operation::Sync)?;
    retry(|| rustix::fs::fsync(file))?;
    fault::synced(Some(file));
    Ok(())
}

/// Makes all of the filesystem durable that holds `file`. `file` must be open since before the
/// writes: errors are reported to those who were there (Linux 5.8 and later).
pub(super) fn sync_filesystem(file: &File) -> io::Result<()> {
    fault::check(Operation::Sync)?;
    retry(|| rustix::fs::syncfs(file))?;
    fault::synced(None);
    Ok(())
}

/// What a rename does where the new name exists.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum IfExists {
    /// Fail with `AlreadyExists`.
    Fail,
    /// Replace it.
    Replace,
    /// Give it the old name.
    Exchange,
}

/// Renames within one filesystem.
pub(super) fn rename(from: (&File, &[u8]), to: (&File, &[u8]), if_exists: IfExists) -> io::Result<()> {
    fault::check(Operation::Rename)?;
    let flags = match if_exists {
        IfExists::Fail => RenameFlags::NOREPLACE,
        IfExists::Replace => RenameFlags::empty(),
        IfExists::Exchange => RenameFlags::EXCHANGE,
    };
    match rustix::fs::renameat_with(from.0, from.1, to.0, to.1, flags) {
        // NFS, and some others, know no flags: check, then rename.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) if if_exists == IfExists::Fail => {
            match rustix::fs::statat(to.0, to.1, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => Ok(rustix::fs::renameat(from.0, from.1, to.0, to.1)?),
                Ok(_) => Err(Errno::EXIST.into()),
                Err(errno) => Err(errno.into()),
            }
        }
        result => Ok(result?),
    }
}

/// Removes a file or a symbolic link; fine where there is none.
pub(super) fn remove_file(parent: impl AsFd, name: &[u8]) -> io::Result<()> {
    fault::check(Operation::Remove)?;
    gone(rustix::fs::unlinkat(parent, name, AtFlags::empty()))
}

/// Removes an empty directory; fine where there is none.
pub(super) fn remove_directory(parent: impl AsFd, name: &[u8]) -> io::Result<()> {
    fault::check(Operation::Remove)?;
    gone(rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR))
}

fn gone(result: rustix::io::Result<()>) -> io::Result<()> {
    match result {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Sets the permission bits of an open file or directory.
pub(super) fn set_mode(file: impl AsFd, mode: u16) -> io::Result<()> {
    fault::check(Operation::Attributes)?;
    Ok(rustix::fs::fchmod(file, Mode::from_raw_mode(mode.into()))?)
}

/// Sets the permission bits of a file or directory that cannot be opened as it is. Only inside
/// of directories of mode 0700: the last name would be followed if it were a symbolic link.
pub(super) fn set_mode_by_name(parent: impl AsFd, name: &[u8], mode: u16) -> io::Result<()> {
    fault::check(Operation::Attributes)?;
    Ok(rustix::fs::chmodat(parent, name, Mode::from_raw_mode(mode.into()), AtFlags::empty())?)
}

/// Sets the modification time.
pub(super) fn set_mtime(file: impl AsFd, mtime: Mtime) -> io::Result<()> {
    fault::check(Operation::Attributes)?;
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: mtime.seconds, tv_nsec: mtime.nanoseconds.into() },
    };
    Ok(rustix::fs::futimens(file, &times)?)
}

/// Writes a small file so that at any instant either the old or the new content is there: a
/// temporary file, synced, renamed, and the directory synced. The old one stays where it fails.
pub(super) fn replace_file(directory: &File, name: &[u8], bytes: &[u8]) -> io::Result<()> {
    let temporary = [name, b".new"].concat();
    let file = open_or_create(directory, &temporary)?;
    set_length(&file, 0)?;
    write_at(&file, bytes, 0)?;
    sync_all(&file)?;
    rename((directory, &temporary), (directory, name), IfExists::Replace)?;
    sync_all(directory)
}

fn retry<T>(call: impl FnMut() -> rustix::io::Result<T>) -> io::Result<T> {
    Ok(rustix::io::retry_on_intr(call)?)
}

#[cfg(not(test))]
mod fault {
    //! Without tests nothing fails on purpose.

    use std::fs::File;
    use std::io;

    use super::Operation;

    pub(super) use rustix::fs::ioctl_ficlone as clone;

    pub(super) const fn check(_: Operation) -> io::Result<()> {
        Ok(())
    }

    pub(super) const fn check_write(length: usize) -> io::Result<usize> {
        Ok(length)
    }

    pub(super) const fn unsynced(_: &File, _: u64, _: usize) {}

    pub(super) const fn synced(_: Option<&File>) {}
}

#[cfg(test)]
pub(super) mod fault {
    //! Failures on demand, for the thread that asked for them.

    use std::cell::{Cell, RefCell};
    use std::fs::File;
    use std::io;
    use std::os::unix::fs::{FileExt, MetadataExt};

    use super::Operation;

    /// What happens at the chosen call.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(in crate::storage) enum Effect {
        /// It fails with this error number, and those after it succeed.
        Error(i32),
        /// It is a sync that fails and drops what it was to save; those after it succeed.
        LostSync,
        /// It and all after it do nothing: the process is dead.
        Crash,
        /// As a crash, and what was not synced is lost.
        PowerCut,
    }

    #[derive(Default)]
    struct Plan {
        /// Which operation (any where `None`), how many of them still succeed, and what then.
        armed: Option<(Option<Operation>, u32, Effect)>,
        /// Set once the process is dead.
        dead: bool,
        fired: bool,
        /// Writes that no sync has covered, while a plan is armed.
        unsynced: Vec<(File, u64, usize)>,
    }

    type Happens = Box<dyn FnOnce()>;

    thread_local! {
        static PLAN: RefCell<Plan> = RefCell::default();
        static CLONES: Cell<bool> = const { Cell::new(false) };
        static BEFORE: RefCell<Option<(Operation, Happens)>> = RefCell::default();
    }

    /// The next time that `operation` is done, `happens` comes before it.
    pub(in crate::storage) fn before(operation: Operation, happens: impl FnOnce() + 'static) {
        BEFORE.set(Some((operation, Box::new(happens))));
    }

    /// From here on every filesystem can clone, or what it can by itself.
    pub(in crate::storage) fn pretend_to_clone(pretend: bool) {
        CLONES.set(pretend);
    }

    pub(super) fn clone(file: &File, original: &File) -> rustix::io::Result<()> {
        if !CLONES.get() {
            return rustix::fs::ioctl_ficlone(file, original);
        }
        let mut bytes = vec![0; usize::try_from(original.metadata().unwrap().len()).unwrap()];
        original.read_exact_at(&mut bytes, 0).unwrap();
        file.write_all_at(&bytes, 0).unwrap();
        Ok(())
    }

    /// From here on the `n`-th (from 0) call that does `operation` has `effect`.
    pub(in crate::storage) fn arm(operation: Option<Operation>, n: u32, effect: Effect) {
        PLAN.set(Plan { armed: Some((operation, n, effect)), ..Plan::default() });
    }

    /// Ends all failures; whether the chosen call was reached. After a power cut the bytes that
    /// were not synced are overwritten.
    pub(in crate::storage) fn disarm() -> bool {
        let mut plan = PLAN.take();
        if let Some((_, _, Effect::PowerCut)) = plan.armed
            && plan.fired
        {
            plan.lose_unsynced();
        }
        plan.fired
    }

    impl Plan {
        fn lose_unsynced(&mut self) {
            for (file, offset, length) in self.unsynced.drain(..) {
                file.write_all_at(&vec![0xdb; length], offset).unwrap();
            }
        }
    }

    pub(super) fn check(operation: Operation) -> io::Result<()> {
        let happens = BEFORE.with_borrow_mut(|before| before.take_if(|(awaited, _)| *awaited == operation));
        if let Some((_, happens)) = happens {
            happens();
        }
        PLAN.with_borrow_mut(|plan| {
            if plan.dead {
                return Err(io::Error::other("the process is dead"));
            }
            let Some((wanted, countdown, effect)) = &mut plan.armed else { return Ok(()) };
            if plan.fired || wanted.is_some_and(|wanted| wanted != operation) {
                return Ok(());
            }
            if *countdown > 0 {
                *countdown -= 1;
                return Ok(());
            }
            plan.fired = true;
            match *effect {
                Effect::Error(errno) => Err(io::Error::from_raw_os_error(errno)),
                Effect::LostSync => {
                    plan.lose_unsynced();
                    Err(io::Error::other("the sync fails"))
                }
                Effect::Crash | Effect::PowerCut => {
                    plan.dead = true;
                    Err(io::Error::other("the process dies here"))
                }
            }
        })
    }

    /// A write that dies or fails may have come half way.
    pub(super) fn check_write(length: usize) -> io::Result<usize> {
        check(Operation::Write).map(|()| length)
    }

    pub(super) fn unsynced(file: &File, offset: u64, length: usize) {
        PLAN.with_borrow_mut(|plan| {
            if matches!(plan.armed, Some((_, _, Effect::PowerCut | Effect::LostSync))) {
                plan.unsynced.push((file.try_clone().unwrap(), offset, length));
            }
        });
    }

    pub(super) fn synced(file: Option<&File>) {
        PLAN.with_borrow_mut(|plan| {
            let inode = file.map(|file| file.metadata().unwrap().ino());
            plan.unsynced
                .retain(|(file, _, _)| inode.is_some_and(|inode| file.metadata().unwrap().ino() != inode));
        });
    }
}

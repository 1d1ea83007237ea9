//! Decides which users may open a store: the mode that a new store gets, and the remedy in an error
//! for the other users.

use std::fs::File;
use std::io;
use std::path::Path;

#[cfg(unix)]
pub(super) use unix::{explained, share};

/// Lets the users who share a directory open a new store in it.
#[cfg(not(unix))]
pub(super) fn share(_: &File, _: &Path) -> io::Result<()> {
    Ok(())
}

/// Returns the error. If permission was denied, adds which file denies it and the remedy.
#[cfg(not(unix))]
pub(super) fn explained(error: io::Error, _: &Path) -> io::Error {
    error
}

/// The mode of a file until it is shared.
#[cfg(unix)]
pub(super) const PRIVATE: u32 = 0o600;

#[cfg(unix)]
mod unix {
    use super::{File, PRIVATE, Path, io};
    use crate::name::Printable;
    use rustix::process::{getegid, geteuid, getgroups};
    use std::fs::{self, Metadata, Permissions};
    use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};

    /// Lets the users who share a directory open a new store in it. If the group of the directory
    /// may write to it, and not everybody, that group may read and write the store, whatever the
    /// umask. Otherwise only the owner may: a user who can read the store can stop its writers, and
    /// one who can write it can forge rows.
    pub(in super::super) fn share(file: &File, path: &Path) -> io::Result<()> {
        let directory = fs::metadata(directory(path))?;
        let group = directory.gid();
        let is_of_group = is_shared(&directory)
            && (file.metadata()?.gid() == group || fchown(file, None, Some(group)).is_ok());
        let mode = if is_of_group { 0o660 } else { PRIVATE };
        // A file system without modes has none to set.
        let _ = file.set_permissions(Permissions::from_mode(mode));
        Ok(())
    }

    /// Tells whether the group of a directory may write to it, and not everybody.
    fn is_shared(directory: &Metadata) -> bool {
        directory.mode() & 0o022 == 0o020
    }

    fn directory(path: &Path) -> &Path {
        path.parent().unwrap_or(path)
    }

    /// Returns the error. If permission was denied, adds which file denies it and the remedy.
    pub(in super::super) fn explained(error: io::Error, path: &Path) -> io::Error {
        let is_denied = error.kind() == io::ErrorKind::PermissionDenied;
        if !is_denied || error.raw_os_error().is_none() {
            return error;
        }
        io::Error::new(error.kind(), explanation(path))
    }

    fn explanation(path: &Path) -> String {
        match fs::symlink_metadata(path) {
            Ok(file) => {
                let remedy = remedy_for(path, &file);
                format!(
                    "permission denied: it belongs to {}; {remedy}",
                    owned(&file)
                )
            }
            Err(error) => {
                // This is the directory that may not be written to, or the first that may not be
                // entered.
                let is_missing = error.kind() == io::ErrorKind::NotFound;
                let denying = path.ancestors().skip(1);
                let mut denying = denying.filter_map(|it| Some((it, fs::metadata(it).ok()?)));
                let Some((denying, metadata)) = denying.next() else {
                    return "permission denied".into();
                };
                let base = if is_missing {
                    denying
                } else {
                    directory(denying)
                };
                let (shown, owned) = (
                    Printable(&denying.to_string_lossy()).to_string(),
                    owned(&metadata),
                );
                let remedy = new_directory(base, path, own_group(&metadata));
                format!("permission denied: the directory {shown} belongs to {owned}; {remedy}")
            }
        }
    }

    /// Returns how the owner of a store, or root, lets this user open it.
    fn remedy_for(path: &Path, file: &Metadata) -> String {
        let directory = directory(path);
        let Ok(metadata) = fs::metadata(directory) else {
            return "ask its owner".into();
        };
        let is_of_everybody = metadata.mode() & 0o002 != 0;
        if is_of_everybody {
            return new_directory(directory, path, own_group(file));
        }
        let is_open_to_group = file.mode() & 0o060 == 0o060;
        if is_open_to_group && is_shared(&metadata) && file.gid() != 0 && !is_in(file.gid()) {
            let (group, user) = (group_name(file.gid()), user_name(geteuid().as_raw()));
            return format!(
                "to join its group, root runs `usermod -aG {group} {user}`, and then log in again"
            );
        }
        let group = group_name(own_group(&metadata));
        let path = typed(path);
        format!(
            "to let the group {group} read and write it, its owner or root runs \
             `chgrp {group} {path} && chmod 660 {path}`"
        )
    }

    /// Returns how root makes a directory for a store that a group shares.
    fn new_directory(base: &Path, path: &Path, group: u32) -> String {
        let group = group_name(group);
        let directory = base.join("lockmgr");
        let store = directory.join(path.file_name().unwrap_or_default());
        format!(
            "for a store of the group {group}, root runs `install -d -m 2770 -g {group} {}`, and \
             its users open {}",
            typed(&directory),
            typed(&store)
        )
    }

    /// Returns the group that this user has in common with a file or directory, else the user's
    /// own.
    fn own_group(metadata: &Metadata) -> u32 {
        match metadata.gid() {
            group if group != 0 && is_in(group) => group,
            _ => getegid().as_raw(),
        }
    }

    fn is_in(group: u32) -> bool {
        let groups = getgroups().unwrap_or_default();
        let mut groups = groups.iter().map(|group| group.as_raw());
        getegid().as_raw() == group || groups.any(|it| it == group)
    }

    fn owned(metadata: &Metadata) -> String {
        let (user, group) = (user_name(metadata.uid()), group_name(metadata.gid()));
        format!("{user}:{group} with mode {:04o}", metadata.mode() & 0o7777)
    }

    fn user_name(id: u32) -> String {
        name_in("/etc/passwd", id)
    }

    fn group_name(id: u32) -> String {
        name_in("/etc/group", id)
    }

    /// Returns the name of a user or group, or else the number, which the tools take as well.
    fn name_in(table: &str, id: u32) -> String {
        let table = fs::read_to_string(table).unwrap_or_default();
        let number = id.to_string();
        let name = table.lines().find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            (fields.nth(1)? == number).then_some(name)
        });
        let is_word = |it: &&str| {
            it.chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        };
        name.filter(is_word).map_or(number.clone(), str::to_owned)
    }

    /// Writes a path as a shell takes it.
    fn typed(path: &Path) -> String {
        let path = path.to_string_lossy();
        let is_plain = path
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "/-_.+,:@".contains(c));
        if is_plain {
            return path.into_owned();
        }
        let quoted = path.replace('\'', "'\\''");
        Printable(&format!("'{quoted}'")).to_string()
    }
}

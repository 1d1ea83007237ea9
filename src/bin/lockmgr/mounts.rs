//! Finds the type of the file system of a path, from /proc.

use std::fs;
use std::path::Path;

/// Returns the type of the file system of an existing path: `ext4`, `nfs4`, `fuse.sshfs`.
pub(crate) fn type_of(path: &Path) -> Option<String> {
    let path = fs::canonicalize(path).ok()?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    type_in(&mounts, &path)
}

/// Tells whether hosts share this file system over a network.
pub(crate) fn is_of_network(file_system: &str) -> bool {
    const NETWORK: [&str; 19] = [
        "9p",
        "afs",
        "beegfs",
        "ceph",
        "cifs",
        "coda",
        "fuse.ceph",
        "fuse.glusterfs",
        "fuse.rclone",
        "fuse.s3fs",
        "fuse.sshfs",
        "gfs2",
        "glusterfs",
        "lustre",
        "ncpfs",
        "ocfs2",
        "smb3",
        "smbfs",
        "virtiofs",
    ];
    NETWORK.contains(&file_system) || file_system.starts_with("nfs")
}

/// Returns the type of the deepest mount above the path. Of several mounts on one directory, the
/// last covers the others.
fn type_in(mounts: &str, path: &Path) -> Option<String> {
    let mut found: Option<(usize, &str)> = None;
    for line in mounts.lines() {
        let Some((place, source)) = line.split_once(" - ") else {
            continue;
        };
        let Some(place) = place.split(' ').nth(4).map(unescaped) else {
            continue;
        };
        let is_deeper = found.is_none_or(|(deepest, _)| deepest <= place.len());
        if is_deeper && path.starts_with(&place) {
            let kind = source.split(' ').next().unwrap_or_default();
            found = Some((place.len(), kind));
        }
    }
    found.map(|(_, kind)| kind.to_owned())
}

/// The kernel writes blanks, line feeds and backslashes as octal numbers.
fn unescaped(place: &str) -> String {
    let escapes = [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ];
    escapes
        .iter()
        .fold(place.to_owned(), |place, (escape, is)| {
            place.replace(escape, is)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deepest_and_last_mount_above_a_path_counts() {
        let mounts = "1 0 8:1 / / rw - ext4 /dev/a rw\n\
            2 1 0:5 / /mnt rw shared:1 - tmpfs tmpfs rw\n\
            3 2 0:6 / /mnt/a\\040b rw - nfs4 host:/x rw\n\
            4 2 0:7 / /mnt rw - fuse.sshfs host: rw\n";
        for (path, kind) in [
            ("/home/x", "ext4"),
            ("/mntx", "ext4"),
            ("/mnt/x", "fuse.sshfs"),
            ("/mnt/a b/x", "nfs4"),
        ] {
            let found = type_in(mounts, Path::new(path));
            assert_eq!(found.as_deref(), Some(kind), "{path}");
        }
        assert_eq!(type_in("", Path::new("/")), None);
    }

    #[test]
    fn file_systems_of_a_network_are_known() {
        for kind in ["nfs", "nfs4", "cifs", "9p", "fuse.sshfs"] {
            assert!(is_of_network(kind), "{kind}");
        }
        for kind in ["ext4", "xfs", "btrfs", "tmpfs", "overlay", "fuse.ntfs-3g"] {
            assert!(!is_of_network(kind), "{kind}");
        }
    }
}

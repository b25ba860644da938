// Package storage keeps what has to survive a reboot of a confidential VM on a
// disk that belongs to the host. It is a gocryptfs volume (on-disk format 2, by
// the gocryptfs program, 2.0 or later) whose key comes from a Source and is
// never derived from, or kept on, the disk.
//
//	STORAGE_PATH/              the host can read, replace and roll back all of it
//	├── volume/                made as volume.new, then renamed
//	│   ├── header.json        Header: volume id, kind of source, MAC of gocryptfs.conf
//	│   └── cipher/            gocryptfs.conf and encrypted files
//	└── private/               a tmpfs, 0700: nothing in it is the host's
//	    ├── cipher/            the cipher directory, bound by descriptor
//	    ├── volume/            the decrypted volume
//	    └── persist/0 …        directories of the volume for the container, bound by descriptor
//
// The key goes to gocryptfs through a pipe on its standard input; the
// gocryptfs.conf whose MAC was verified goes to it as a sealed memory file, so
// that the host cannot change it in between.
//
// What it leaves out: gocryptfs authenticates blocks of files and names in
// directories, but neither the tree nor its age. A host can move encrypted
// files, and bring back old ones; hence the state counter that the transcript of
// an unlocking carries (docs/spec/storage-unlock.md), and hence no symlink of
// the volume is ever followed.
package storage

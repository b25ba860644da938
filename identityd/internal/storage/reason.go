package storage

import (
	"errors"
	"fmt"
)

// Reason says why something was refused or failed.
type Reason string

// The reasons.
const (
	NotRoot           Reason = "not_root"
	GocryptfsMissing  Reason = "gocryptfs_missing"
	GocryptfsTooOld   Reason = "gocryptfs_too_old"
	FusermountMissing Reason = "fusermount_missing"
	FuseMissing       Reason = "fuse_missing"

	PathInvalid   Reason = "path_invalid"   // STORAGE_PATH is no directory
	StorageInUse  Reason = "storage_in_use" // by another identityd
	DiskFailed    Reason = "disk_failed"    // reading, writing or mounting failed
	Symlink       Reason = "symlink"        // a link, or something else than expected, where a file or directory belongs
	RecoverFailed Reason = "recover_failed" // what a crash left behind does not go away

	VolumeMissing   Reason = "volume_missing"
	VolumeExists    Reason = "volume_exists"
	VolumeMounted   Reason = "volume_mounted"
	VolumeOther     Reason = "volume_other"
	HeaderMalformed Reason = "header_malformed"
	SourceOther     Reason = "source_other" // the volume's key is of another kind of source
	KeyInvalid      Reason = "key_invalid"
	KeyWrong        Reason = "key_wrong"
	ConfChanged     Reason = "conf_changed"
	ConfUnsafe      Reason = "conf_unsafe" // as made, it does not protect what it should
	SourceFailed    Reason = "source_failed"

	InitFailed   Reason = "init_failed"
	MountFailed  Reason = "mount_failed"
	MountTimeout Reason = "mount_timeout"
	MountDead    Reason = "mount_dead" // gocryptfs ended by itself
	NotMounted   Reason = "not_mounted"

	PersistInvalid Reason = "persist_invalid" // not directories that may be kept; package persist says why
)

// Error is a refusal or failure.
type Error struct {
	Reason Reason
	Detail string
	Err    error // may be nil
}

func (e *Error) Error() string {
	s := "storage: " + string(e.Reason)
	if e.Detail != "" {
		s += ": " + e.Detail
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

func (e *Error) Unwrap() error { return e.Err }

// ReasonOf returns the reason of an error of this package, or "".
func ReasonOf(err error) Reason {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Reason
	}
	return ""
}

func refuse(r Reason, format string, a ...any) error {
	return &Error{Reason: r, Detail: fmt.Sprintf(format, a...)}
}

func because(r Reason, err error, format string, a ...any) error {
	return &Error{Reason: r, Detail: fmt.Sprintf(format, a...), Err: err}
}

// Package state is what identityd remembers: a linear machine
//
//	fresh → operator_registered → owner_registered → workload_configured → workload_exposed
//	                                                  ↻ (again)             (terminal)
//
// over two directories. In a confidential VM only memory is protected:
//
//   - The state directory lies on a disk that the host may read, replace and set
//     back. It holds nothing secret. Its one file is authenticated by a MAC.
//   - The run directory lies in memory (tmpfs, 0700). It holds the instance's key,
//     the MAC key and the hash of the owner's token, and survives a restart of the
//     service and not of the VM. It also anchors the state's counter and digest, so
//     that within a boot a file that was set back is noticed at once.
//
// Every change is one file written anew (temporary file, fsync, rename, fsync of
// the directory) under a counter that is higher than any before. What acts on
// the world outside is a step: its intent is written (Configure, Expose,
// RegisterOwner return a Pending), then the caller acts, then the result is
// written (Pending.Finish), or that it was undone (Pending.Undo). After a crash
// Open comes back to the last completed state, and InFlight is the step that
// was under way.
//
// After a reboot secrets are gone. What stands on the disk is then a claim: the
// machine is unlinked, with a new instance key, until Link was given the
// identity that was kept inside the encrypted volume. That volume lies on the
// same disk and is set back with it, so that somebody outside has to say which
// counter they saw last (Witness) before anything is opened again. What they say
// is held against the counter that the disk came with when they had last been
// heard: rebooting and linking do not raise that. A volume that is set back alone
// is noticed when it is older than the last step that was finished; files that
// changed in it since are not.
//
// What it leaves out: it verifies no signature (package request does), mounts
// nothing, starts nothing, and does not speak to the registry. It cannot tell
// two VMs apart that run at once from copies of one disk: their counters part,
// and the registry notices.
package state

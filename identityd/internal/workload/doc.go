// Package workload runs the owner's container with Podman, over Podman's own
// REST API (libpod, version 4.3 to 5.x) on a unix socket. It follows
// https://docs.podman.io/en/latest/_static/api.html and starts no command but,
// where asked for, `podman system service`.
//
// There is one container, named workload, and three steps, each of which may be
// repeated after a crash: EnsureConfigured (running, no port), EnsurePublished
// (made anew, with its port), EnsureGone. What the container was made from
// stands in its labels, so that a step finds out whether it was done.
//
// An image is resolved once. Afterwards it is known by its id and digest, which
// are hashes over its contents, and never by a tag again. Export and Import make
// it outlive Podman's storage, by its id.
//
// Left out: pods, several containers, building, volumes (persisted directories
// are bind mounts of paths that the caller has checked), rootless Podman, and
// the protection of Podman's storage: whoever can write there changes what
// runs. On a host that is not trusted it belongs in memory or in the encrypted
// volume, see ServiceOptions.
package workload

package storage

import "strings"

const namePersist = "persist"

// persistName is the one directory in the volume that belongs to a container's
// path. No two have the same, since no path that package persist lets through has
// a % in it, and none is inside another: what a container kept under one path
// never has a part in finding another.
func persistName(p string) string { return strings.ReplaceAll(p, "/", "%") }

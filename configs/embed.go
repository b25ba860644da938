// Package configs holds the shipped configurations, for programs that start
// collectors with them. They are files first: README.md says what each is for.
package configs

import "embed"

// Files are the shipped configurations, by their names.
//
//go:embed *.yaml
var Files embed.FS

// Command registryd is the registry: it enrols machines by their TPM and
// instances by their TDX quote, keeps who is who and the policies, and tells
// verifying collectors under its signature. README.md says how to run it.
package main

import "os"

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

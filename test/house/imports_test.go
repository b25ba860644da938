// Package house_test holds the rules of the house that no linter knows: who
// may import whom.
package house_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "github.com/telemark-otel/telemark/"

type pkg struct {
	ImportPath string
	Imports    []string
	Deps       []string
}

func list(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Imports,Deps", module+"...")
	out, err := cmd.Output()
	require.NoError(t, err)
	var pkgs []pkg
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		err := dec.Decode(&p)
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		pkgs = append(pkgs, p)
	}
	require.NotEmpty(t, pkgs)
	return pkgs
}

func under(path string, dirs ...string) bool {
	return slices.ContainsFunc(dirs, func(dir string) bool {
		return path == module+dir || strings.HasPrefix(path, module+dir+"/")
	})
}

func component(path string) string {
	for _, kind := range []string{"processor/", "extension/", "receiver/"} {
		if rest, ok := strings.CutPrefix(path, module+kind); ok {
			name, _, _ := strings.Cut(rest, "/")
			return kind + name
		}
	}
	return ""
}

// level is the layer of a domain package; a package imports lower layers and
// its own, never higher ones.
var level = map[string]int{
	"internal/block": 0, "internal/reason": 0,
	"internal/digest": 1, "internal/merkle": 1, "internal/policy": 1, "internal/nonce": 1, "internal/strictjson": 0,
	"internal/registry/api": 1, "internal/registry/audit": 1,
	"internal/receipt": 2, "internal/replay": 2, "internal/tpmattest": 2, "internal/tdx": 2, "internal/registry/answer": 2,
	"internal/group": 3, "internal/verdict": 3, "internal/tdx/collateral": 3, "internal/registry/admin": 3, "internal/registry/enrolment": 3,
	"internal/identity/unlock": 0, "internal/identity/persist": 0, "internal/geo": 0, "internal/httpd": 0, "internal/daemon": 0, "internal/process": 0,
	"internal/travel": 1, "internal/regions": 2,
	"internal/identity/statement": 2, "internal/ratls": 3, "internal/identity/api": 3, "internal/identity/client": 4,
	"internal/keyfile":  4,
	"internal/registry": 5, // what it learns are keys as verdict takes them
}

// helper reports whether a package is one for tests, which no product code
// imports. The name of one domain package ends like theirs.
func helper(path string) bool {
	return strings.HasSuffix(path, "test") && path != module+"internal/tpmattest"
}

func TestDependencyDirection(t *testing.T) {
	for _, p := range list(t) {
		if helper(p.ImportPath) {
			continue
		}
		for _, dep := range p.Deps {
			if under(p.ImportPath, "internal") && !under(p.ImportPath, "internal/digest", "internal/tools") && strings.HasPrefix(dep, "go.opentelemetry.io/collector") {
				direct := slices.Contains(p.Imports, dep)
				viaDigest := slices.Contains(p.Deps, module+"internal/digest")
				if direct || !viaDigest {
					t.Errorf("%s depends on the Collector (%s): only internal/digest may", p.ImportPath, dep)
				}
			}
			if strings.HasPrefix(dep, module+"internal/") && helper(dep) && !under(p.ImportPath, "test") {
				t.Errorf("%s imports %s, a helper of tests", p.ImportPath, dep)
			}
			if own := component(p.ImportPath); own != "" {
				if other := component(dep); other != "" && other != own {
					t.Errorf("%s imports another component, %s: they meet through an interface", p.ImportPath, dep)
				}
			}
			verifying := under(p.ImportPath, "internal/verdict", "internal/keyfile", "internal/policy", "internal/replay", "internal/nonce", "internal/receipt", "internal/tpmattest", "internal/tdx", "internal/registry", "processor/tpmverifyprocessor", "extension/nonceextension", "registryd") &&
				!under(p.ImportPath, "internal/registry/enrolment")
			if verifying && under(dep, "internal/tpm", "internal/tdx/guest") {
				t.Errorf("%s verifies, and imports %s", p.ImportPath, dep)
			}
			from, ok1 := level[strings.TrimPrefix(p.ImportPath, module)]
			to, ok2 := level[strings.TrimPrefix(dep, module)]
			if ok1 && ok2 && to > from {
				t.Errorf("%s (layer %d) imports %s (layer %d)", p.ImportPath, from, dep, to)
			}
		}
	}
}

func TestDomainDoesNoIO(t *testing.T) {
	pure := []string{"internal/block", "internal/reason", "internal/merkle", "internal/policy", "internal/nonce", "internal/receipt", "internal/verdict", "internal/replay", "internal/group", "internal/digest", "internal/strictjson", "internal/registry/answer", "internal/registry/audit", "internal/tpmattest", "internal/tdx", "internal/keyfile", "internal/limit", "internal/nesting", "internal/geo", "internal/travel", "internal/ratls", "internal/identity/statement", "internal/identity/unlock", "internal/identity/persist", "internal/identity/api"}
	for _, p := range list(t) {
		if !slices.ContainsFunc(pure, func(dir string) bool { return p.ImportPath == module+dir }) {
			continue
		}
		for _, banned := range []string{"net", "net/http", "os", "os/exec"} {
			if slices.Contains(p.Imports, banned) {
				t.Errorf("%s imports %s: domain packages do no I/O", p.ImportPath, banned)
			}
		}
	}
}

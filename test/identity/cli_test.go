package identity_test

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/identity/api"
	"github.com/telemark-otel/telemark/internal/identity/statement"
	"github.com/telemark-otel/telemark/test/harness"
)

// desk is where the people of a VM sit: the telemark command, its keys and what it
// remembers.
type desk struct {
	*vm
	dir, program string
}

func newDesk(v *vm) *desk {
	v.Helper()
	program, err := harness.Bin("telemark")
	require.NoError(v, err)
	return &desk{v, v.TempDir(), program}
}

func (d *desk) file(name string) string { return filepath.Join(d.dir, name) }

func (d *desk) command(args ...string) *exec.Cmd {
	cmd := exec.CommandContext(d.Context(), d.program, args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + d.dir, "TELEMARK_INSTANCES=" + d.file("instances"), "LC_ALL=C.UTF-8"}
	return cmd
}

// does runs a command that has to succeed.
func (d *desk) does(args ...string) string {
	d.Helper()
	got := d.run(d.command(args...))
	require.Zero(d, got.code, "telemark %q: %+v", args, got)
	return got.out
}

// believing are the flags by which it believes quotes of the lab.
func (d *desk) believing(args ...string) []string {
	return append(args, "--quote-roots", world.root, "--pccs-url", world.lab)
}

func (d *desk) status() *standing {
	d.Helper()
	out := d.does(d.believing("workload", "status", d.TLSURL, "--output", "json")...)
	s := &standing{}
	require.NoError(d, json.NewDecoder(bytes.NewReader([]byte(out))).Decode(s))
	return s
}

type standing struct {
	Attested struct {
		Instance string           `json:"instance_pubkey"`
		Origin   string           `json:"origin_pubkey"`
		Verified bool             `json:"verified"`
		Channel  string           `json:"channel"`
		Facts    *statement.Facts `json:"facts"`
	} `json:"attested"`
	State *api.State `json:"state"`
}

func TestPeopleWithTheTelemarkCommand(t *testing.T) {
	t.Parallel()
	v := newVM(t)
	d := newDesk(v)
	at := v.TLSURL
	operator, owner, token := d.file("operator.key"), d.file("owner.key"), d.file("owner.token")
	d.does("operator", "key", "new", operator)
	d.does("owner", "key", "new", owner)
	public := d.does("owner", "key", "show", "--key", owner)
	require.NoError(t, os.WriteFile(d.file("owner.pub"), []byte(public), 0o600))
	v.owner = &person{file: owner}

	d.does(d.believing("operator", "register", at, "--key", operator, "--owner-key", d.file("owner.pub"), "--write-token", token)...)
	thief := d.file("thief.key")
	d.does("owner", "key", "new", thief)
	got := d.run(d.command(d.believing("owner", "register", at, "--token-file", token, "--key", thief)...))
	require.NotZero(t, got.code)
	require.Contains(t, got.errs, "other_owner")
	d.does(d.believing("owner", "register", at, "--token-file", token, "--key", owner)...)

	d.does(d.believing("workload", "configure", at, "--key", owner, "--image", app, "--persist", "/data", "--port", "8080")...)
	require.Equal(t, "hello\n", d.does(append(d.believing("workload", "ssh", at, "--key", owner, "--exec"), "--", "echo hello")...))
	v.copyIn("/data/a", "kept\n")
	s := d.status()
	require.True(t, s.Attested.Verified)
	require.Equal(t, "attested", s.Attested.Channel)
	require.Equal(t, statement.SSHIsOpen, s.Attested.Facts.SSH)

	alone(func() { d.does(d.believing("workload", "expose", at, "--key", owner)...) })
	s = d.status()
	require.Equal(t, statement.SSHIsClosed, s.Attested.Facts.SSH)
	require.Equal(t, app+"@"+s.State.Workload.Digest, s.Attested.Facts.Image)
	require.Equal(t, statement.ByRegister, s.Attested.Facts.Evidence)
	v.reachable(words)
	v.registryShowsClosed()
	got = d.run(d.command(append(d.believing("workload", "ssh", at, "--key", owner, "--exec"), "--", "echo hello")...))
	require.NotZero(t, got.code)
	require.Contains(t, got.errs, "SSH is closed for good")

	before := s.Attested
	v.reboot()
	alone(func() { d.does(d.believing("storage", "unlock", at, "--key", owner)...) })
	d.does(d.believing("operator", "renew", at, "--key", operator)...)
	s = d.status()
	require.Equal(t, before.Origin, s.Attested.Origin)
	require.NotEqual(t, before.Instance, s.Attested.Instance)
	require.Equal(t, statement.SSHIsClosed, s.Attested.Facts.SSH)
	require.Equal(t, "kept\n", v.inside("/data/a"))
	v.registryShowsClosed()
}

// TestTheCommandSignsNothingForAForgedQuote: the quote is verified before anything
// is signed or sent.
func TestTheCommandSignsNothingForAForgedQuote(t *testing.T) {
	t.Parallel()
	v := newVM(t)
	d := newDesk(v)
	key := d.file("operator.key")
	d.does("operator", "key", "new", key)
	// To Intel's root the lab's quotes are forged.
	got := d.run(d.command("operator", "register", v.TLSURL, "--key", key, "--pccs-url", world.lab))
	require.NotZero(t, got.code)
	require.Contains(t, got.errs, "Nothing was signed")
	require.Equal(t, "fresh", v.state().State)
}

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/telemark-otel/telemark/internal/identity/api"
	"github.com/telemark-otel/telemark/internal/identity/client"
	"github.com/telemark-otel/telemark/internal/identity/persist"
	"github.com/telemark-otel/telemark/internal/identity/statement"
	"github.com/telemark-otel/telemark/internal/tpm/private"
)

const (
	pullPatience = 20 * time.Minute // an image is pulled

	workloadLong = `Run a container in a confidential VM that you own: configure it, work on it through temporary
SSH, then close the door for good and publish its port.

Before anything is signed the VM's quote is verified, under a fresh nonce.`

	configureLong = `Start a container without publishing its port, and open SSH into it. Called again before
expose it replaces the container; the persisted directories stay.

An image that is named by digest is pinned as given. A tag is resolved once, now, and expose
runs exactly what it was resolved to.`

	exposeLong = `End every SSH session, close SSH for good, start the container anew with its port published.
This is final: nothing opens the way in again. From then on the VM's quote shows which image
runs and that SSH is closed.`
)

func newWorkload() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "workload",
		Short: "Run a container in a confidential VM",
		Long:  workloadLong,
		Example: `  telemark workload configure https://vm.example:3443 --key owner.key --image registry.example/app:1.4 --persist /data --port 8080
  telemark workload ssh https://vm.example:3443 --key owner.key --exec
  telemark workload expose https://vm.example:3443 --key owner.key
  telemark workload status https://vm.example:3443`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newWorkloadConfigure(), newWorkloadExpose(), newWorkloadStatus(), newWorkloadSSH())
	return cmd
}

func newWorkloadConfigure() *cobra.Command {
	var (
		o           instanceFlags
		image       string
		dirs        []string
		port        int64
		credentials string
	)
	cmd := &cobra.Command{
		Use:   "configure URL --image IMAGE --port N",
		Short: "Start a container, and open SSH into it",
		Long:  configureLong,
		Example: `  telemark workload configure https://vm.example:3443 --key owner.key --image registry.example/app:1.4 --persist /data --port 8080
  telemark workload configure https://vm.example:3443 --agent-key me@example --image registry.example/app@sha256:3b9a… --port 80 \
      --registry-credentials-file registry.secret`,
		Args: operands(1, whichURL),
	}
	o.signing(cmd.Flags(), pullPatience)
	f := cmd.Flags()
	f.StringVar(&image, "image", "", "the image, by digest or tag")
	f.StringArrayVar(&dirs, "persist", nil, "directory in the container that the encrypted storage keeps; may be repeated")
	f.Int64Var(&port, "port", 0, "port in the container that expose publishes")
	f.StringVar(&credentials, "registry-credentials-file", "", "file with USER:PASSWORD for a private image, mode 0600")
	run := withInstance(&o, func(ctx context.Context, s *session) error {
		w := api.Configure{Image: &image, PersistDirs: append([]string{}, dirs...), Port: &port}
		var err error
		if w.Registry, err = readCredentials(credentials); err != nil {
			return err
		}
		return configureWorkload(ctx, s, w)
	})
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		switch err := persist.Validate(dirs); {
		case image == "":
			return errors.New("which image? Give --image")
		case port < 1 || port > 65535:
			return errors.New("--port: give the container's port, 1 to 65535")
		case err != nil:
			return fmt.Errorf("--persist: %w", err)
		}
		return run(cmd, args)
	}
	return cmd
}

func configureWorkload(ctx context.Context, s *session, w api.Configure) error {
	key, err := s.flags.openKey()
	if err != nil {
		return err
	}
	defer func() { _ = key.Close() }()
	if err := s.mine(key.Bytes()); err != nil {
		return err
	}
	done, err := s.instance.Configure(ctx, key, w)
	if err != nil {
		return instanceError(err)
	}
	return s.took(ctx, done, "The container runs, its port is not published. 'telemark workload ssh' leads into it.", func(i *client.Instance) bool {
		runs := i.Statement.Workload
		return i.Facts.State == statement.WorkloadConfigured && runs != nil && runs.Image == *w.Image && int64(runs.Port) == *w.Port
	})
}

// readCredentials reads USER:PASSWORD; nil without a file.
func readCredentials(path string) (*api.Credentials, error) {
	if path == "" {
		return nil, nil
	}
	content, err := private.ReadSecret(path, maxSmallFile)
	if err != nil {
		return nil, work(fmt.Errorf("--registry-credentials-file: %w", err))
	}
	user, password, ok := strings.Cut(strings.TrimRight(string(content), "\r\n"), ":")
	if !ok || user == "" || strings.ContainsAny(user+password, "\r\n") {
		return nil, work(fmt.Errorf("--registry-credentials-file: %s does not hold one line USER:PASSWORD", path))
	}
	return &api.Credentials{Username: user, Password: password}, nil
}

func newWorkloadExpose() *cobra.Command {
	var (
		o     instanceFlags
		image string
	)
	cmd := &cobra.Command{
		Use:   "expose URL",
		Short: "Close SSH for good, and publish the port",
		Long:  exposeLong,
		Example: `  telemark workload expose https://vm.example:3443 --key owner.key
  telemark workload expose https://vm.example:3443 --key owner.key --image registry.example/app:1.4 --output json`,
		Args: operands(1, whichURL),
	}
	cmd.RunE = withInstance(&o, func(ctx context.Context, s *session) error {
		key, err := o.openKey()
		if err != nil {
			return err
		}
		defer func() { _ = key.Close() }()
		if err := s.mine(key.Bytes()); err != nil {
			return err
		}
		if image == "" {
			if image, err = s.configured(); err != nil {
				return err
			}
		}
		done, err := s.instance.Expose(ctx, key, image)
		if err != nil {
			return instanceError(err)
		}
		return s.took(ctx, done, "The container's port is published, and SSH closed for good.", func(i *client.Instance) bool {
			return i.Facts.SSH == statement.SSHIsClosed
		})
	})
	o.signing(cmd.Flags(), pullPatience)
	cmd.Flags().StringVar(&image, "image", "", "the image as it was configured; the one that the instance states when empty")
	return cmd
}

// configured is the image that the instance states under its quote.
func (s *session) configured() (string, error) {
	switch st := s.instance.Statement; {
	case st == nil:
		return "", errors.New("--legacy: give --image as it was configured")
	case st.Workload == nil:
		return "", refuse("no workload is configured\n%s", nextStep["workload_missing"])
	default:
		return st.Workload.Image, nil
	}
}

package main

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/internal/tpm"
)

const (
	ekShowLong = `Show the endorsement key of a TPM, by whose hash a registry knows the machine: the
hash for inventories ('telemark fleet import'), the manufacturer's certificate
where the TPM holds one, and the public key.

The hash is SHA-256 of the key's SubjectPublicKeyInfo in DER, so that it can be
taken from a certificate as well:
  openssl x509 -in ek.crt -noout -pubkey | openssl pkey -pubin -outform der | sha256sum

A TPM has several endorsement keys. The one shown is that which the agent uses
unless told otherwise (tpm::registry::ek): the one that the manufacturer
certified, of several the quickest, P-256 before P-384 before RSA. --all shows
every one, which takes a chip a while.`

	ekShowExample = `  telemark ek show --device /dev/tpmrm0
  telemark ek show --device /dev/tpmrm0 --ek rsa2048 --output json
  telemark ek show --device /dev/tpmrm0 --all`
)

func newEK() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "ek",
		Short:   "Show what names a machine: its TPM's endorsement key",
		Example: ekShowExample,
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newEKShow())
	return cmd
}

func newEKShow() *cobra.Command {
	var (
		device string
		ek     ekFlag
		all    bool
	)
	cmd := &cobra.Command{
		Use:     "show --device DEVICE",
		Short:   "Show the endorsement key: hash, certificate, PEM",
		Long:    ekShowLong,
		Example: ekShowExample,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			keys, err := readEKs(cmd.Context(), device, tpm.EKAlgorithm(ek), all)
			if err != nil {
				return err
			}
			return show(cmd, keys, func(w io.Writer) { sayEKs(w, keys) })
		},
	}
	cmd.Flags().StringVar(&device, "device", "", "the TPM")
	cmd.Flags().Var(&ek, "ek", "which: rsa2048, p256 or p384; the one that the agent uses when empty")
	cmd.Flags().BoolVar(&all, "all", false, "show every one")
	return cmd
}

// shownEK is an endorsement key as the command prints it.
type shownEK struct {
	Hash        string         `json:"ek_hash"`
	Algorithm   string         `json:"algorithm"`
	Used        bool           `json:"used"` // by an agent that was told nothing else
	PublicKey   string         `json:"public_key"`
	Certificate *ekCertificate `json:"certificate,omitempty"`
}

type ekCertificate struct {
	Issuer   string    `json:"issuer"`
	Serial   string    `json:"serial"`
	NotAfter time.Time `json:"not_after"`
	PEM      string    `json:"pem"`
	Error    string    `json:"error,omitempty"` // why the rest is missing
}

func readEKs(ctx context.Context, device string, only tpm.EKAlgorithm, all bool) ([]shownEK, error) {
	if device == "" {
		return nil, errors.New("ek show needs --device")
	}
	if err := tpm.ParseDevice(device); err != nil {
		return nil, fmt.Errorf("--device: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, tpmPatience)
	defer cancel()
	dev, err := tpm.Open(ctx, device, tpm.Options{})
	if err != nil {
		return nil, work(openHint(device, err))
	}
	defer func() { _ = dev.Close() }()
	used, err := dev.ChooseEK(ctx)
	if err != nil {
		return nil, work(err)
	}
	algorithms := []tpm.EKAlgorithm{used}
	switch {
	case all:
		algorithms = []tpm.EKAlgorithm{tpm.EKECCP256, tpm.EKECCP384, tpm.EKRSA2048}
	case only != 0:
		algorithms = []tpm.EKAlgorithm{only}
	}
	var out []shownEK
	for _, a := range algorithms {
		ek, err := dev.EK(ctx, a)
		if err != nil {
			if all && tpm.Classify(err) == tpm.Permanent { // this one it cannot make
				continue
			}
			return nil, work(fmt.Errorf("%v: %w", a, err))
		}
		shown, err := showEK(ek)
		if err != nil {
			return nil, work(err)
		}
		shown.Algorithm, shown.Used = a.String(), a == used
		out = append(out, *shown)
	}
	return out, nil
}

func showEK(ek *tpm.EK) (*shownEK, error) {
	public, err := ek.PublicKey()
	if err != nil {
		return nil, err
	}
	hash, err := api.EKHash(public)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, err
	}
	out := &shownEK{Hash: hash, PublicKey: string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))}
	if ek.Certificate == nil {
		return out, nil
	}
	out.Certificate = &ekCertificate{PEM: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ek.Certificate}))}
	certificate, err := x509.ParseCertificate(ek.Certificate)
	if err != nil { // some vendors' are not strict DER
		out.Certificate.Error = fmt.Sprintf("%.200s", err)
		return out, nil
	}
	out.Certificate.Issuer = printable(certificate.Issuer.String())
	out.Certificate.Serial = certificate.SerialNumber.Text(16)
	out.Certificate.NotAfter = certificate.NotAfter
	return out, nil
}

func sayEKs(w io.Writer, keys []shownEK) {
	for i, k := range keys {
		if i > 0 {
			say(w, "")
		}
		say(w, "ek hash      %s", k.Hash)
		used := ""
		if k.Used && len(keys) > 1 {
			used = " (the agent's choice)"
		}
		say(w, "algorithm    %s%s", k.Algorithm, used)
		switch c := k.Certificate; {
		case c == nil:
			say(w, "certificate  none in this TPM")
		case c.Error != "":
			say(w, "certificate  is there and cannot be read: %s", printable(c.Error))
		default:
			say(w, "certificate  issued by %s, serial %s, valid until %s", c.Issuer, c.Serial, c.NotAfter.Format(time.DateOnly))
		}
		say(w, "%s", k.PublicKey[:len(k.PublicKey)-1])
	}
}

// ekFlag is an algorithm of endorsement keys; 0 leaves the choice to the TPM.
type ekFlag tpm.EKAlgorithm

func (e *ekFlag) String() string {
	if *e == 0 {
		return ""
	}
	return tpm.EKAlgorithm(*e).String()
}

func (*ekFlag) Type() string { return "algorithm" }

func (e *ekFlag) Set(s string) error {
	a, err := tpm.ParseEKAlgorithm(s)
	*e = ekFlag(a)
	return err
}

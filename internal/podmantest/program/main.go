// Command program is what the images of tests run: a web server, a small
// shell, and questions about the process it is. It is linked statically and is
// the only file of its image.
package main

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	args := os.Args[1:]
	if filepath.Base(os.Args[0]) == "sh" {
		if len(args) == 2 && args[0] == "-c" {
			os.Exit(run(strings.Fields(args[1])))
		}
		os.Exit(shell())
	}
	os.Exit(run(args))
}

// shell reads commands until exit or the end of its input.
func shell() int {
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, unix.SIGWINCH)
	go func() {
		for range changed {
			fmt.Println("resized", size())
		}
	}()
	fmt.Println("shell ready", size())
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		if len(words) == 2 && words[0] == "exit" {
			code, _ := strconv.Atoi(words[1])
			return code
		}
		run(words)
	}
	return 0
}

func size() string {
	ws, err := unix.IoctlGetWinsize(0, unix.TIOCGWINSZ)
	if err != nil {
		return "no terminal"
	}
	return fmt.Sprintf("%dx%d", ws.Col, ws.Row)
}

// run knows a few commands; its result is the exit code.
func run(words []string) int {
	if len(words) == 0 {
		return 0
	}
	var err error
	switch arg := strings.Join(words[1:], " "); words[0] {
	case "serve":
		return serve(arg)
	case "end":
		code, _ := strconv.Atoi(arg)
		return code
	case "echo":
		fmt.Println(arg)
	case "complain":
		fmt.Fprintln(os.Stderr, arg)
	case "env":
		fmt.Println(os.Getenv(arg))
	case "cat":
		err = cat(arg)
	case "write":
		err = os.WriteFile(arg, []byte("written\n"), 0o644) //nolint:gosec // for others in the container
	case "size":
		fmt.Println(size())
	case "sleep":
		d, _ := time.ParseDuration(arg)
		fmt.Println("sleeping")
		time.Sleep(d)
	case "run":
		err = syscall.Exec(words[1], words[1:], os.Environ()) //nolint:gosec // that is the question
	default:
		fmt.Fprintln(os.Stderr, "not a command:", words[0])
		return 127
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func cat(name string) error {
	if name == "" {
		_, err := io.Copy(os.Stdout, os.Stdin)
		return err
	}
	f, err := os.Open(name) //nolint:gosec // of the image under test
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	_, err = io.Copy(os.Stdout, f)
	return err
}

// serve answers every request with the words of its image or, when they are
// @FILE, with what the file holds then.
func serve(words string) int {
	fmt.Println("serving", words)
	fmt.Fprintln(os.Stderr, "to stderr")
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	go func() {
		<-stop
		os.Exit(0)
	}()
	server := &http.Server{Addr: ":8080", ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		said := words
		if name, is := strings.CutPrefix(words, "@"); is {
			content, err := os.ReadFile(name) //nolint:gosec // what the image says
			said = strings.TrimSpace(string(content))
			if err != nil {
				said = err.Error()
			}
		}
		_, _ = fmt.Fprintln(w, said) //nolint:gosec // words of the image under test
	})}
	fmt.Fprintln(os.Stderr, server.ListenAndServe())
	return 1
}

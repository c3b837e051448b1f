package localbackend

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest"
)

func init() { parts["full"] = partFull }

// partFull lets the disk be full again and again: a limit on the size of files,
// which fails the call that would exceed it, as a full disk does.
func partFull(b stability.Backend, out io.Writer) error {
	signal.Ignore(syscall.SIGXFSZ)
	ctx := context.Background()
	rec, err := take(b)
	if err != nil {
		return err
	}
	model := map[authstore.Key]string{}
	limit := func(n uint64) error {
		return syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: n, Max: 1 << 62})
	}
	failed := 0
	for round := range stabilitytest.Pick(60, 1000) {
		info, err := os.Stat(os.Getenv(pathEnv))
		if err != nil {
			return err
		}
		// Sometimes growing is what fails, sometimes a page in the middle.
		if err := limit(uint64(info.Size()) * uint64(60+rand.IntN(50)) / 100); err != nil {
			return err
		}
		var batch authstore.Batch
		for i := range 1 + rand.IntN(20) {
			batch.Put = append(batch.Put, authstore.Entry{
				Key:   authstore.Key{Kind: "session", ID: fmt.Sprint(rand.IntN(50)*100 + i)},
				Value: fmt.Append(make([]byte, rand.IntN(20_000)), "round ", round),
			})
		}
		err = b.Auth.Commit(ctx, rec.Epoch, batch)
		if err != nil {
			failed++
			for _, permanent := range []error{authstore.ErrFenced, authstore.ErrCorrupt, authstore.ErrTooLarge, authstore.ErrNewerFormat} {
				if errors.Is(err, permanent) {
					return fmt.Errorf("round %d: a full disk is no permanent error: %w", round, err)
				}
			}
			if _, err := b.Lock.Renew(ctx, rec); err != nil {
				return fmt.Errorf("round %d: a full disk loses no lock: %w", round, err)
			}
			if err := requireModel(ctx, b, model); err != nil {
				return fmt.Errorf("round %d, full: %w", round, err)
			}
			if err := limit(1 << 62); err != nil {
				return err
			}
			if err := b.Auth.Commit(ctx, rec.Epoch, batch); err != nil {
				return fmt.Errorf("round %d: with space again: %w", round, err)
			}
		}
		for _, e := range batch.Put {
			model[e.Key] = string(e.Value)
		}
		if err := requireModel(ctx, b, model); err != nil {
			return fmt.Errorf("round %d: %w", round, err)
		}
	}
	fmt.Fprintln(out, failed)
	if err := limit(1 << 62); err != nil {
		return err
	}
	if err := b.Close(); err != nil {
		return err
	}
	if b, err = Open(os.Getenv(pathEnv)); err != nil { // checks the file
		return err
	}
	if _, err := take(b); err != nil {
		return err
	}
	return requireModel(ctx, b, model)
}

func requireModel(ctx context.Context, b stability.Backend, want map[authstore.Key]string) error {
	n := 0
	for e, err := range b.Auth.Scan(ctx, "session", "") {
		if err != nil {
			return err
		}
		n++
		if want[e.Key] != string(e.Value) {
			return fmt.Errorf("%s has another value: %d bytes, not %d", e.Key.ID, len(e.Value), len(want[e.Key]))
		}
	}
	if n != len(want) {
		return fmt.Errorf("%d values, not %d", n, len(want))
	}
	return nil
}

func TestAFullDiskIsAPassingErrorAndBreaksNothing(t *testing.T) {
	t.Parallel()
	p := start(t, "full", newPath(t))
	failed := p.line()
	rest, _ := io.ReadAll(p.out)
	err := p.Wait()
	require.NoError(t, err, strings.TrimSpace(p.err.String())+string(rest))
	t.Log(failed, "commits failed")
	require.NotEqual(t, "0", failed, "the disk was never full")
}

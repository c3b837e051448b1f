package firestorebackend

import (
	"crypto/rand"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/wastability/wastability/stability/stabilitytest/firestoresim"
)

// plainTo dials an address as the emulator wants it.
func plainTo(addr string) []option.ClientOption {
	return []option.ClientOption{
		option.WithEndpoint("passthrough:///" + addr), option.WithoutAuthentication(), option.WithTelemetryDisabled(),
		option.WithGRPCDialOption(grpc.WithTransportCredentials(insecure.NewCredentials())),
		option.WithGRPCDialOption(grpc.WithPerRPCCredentials(owner{})),
	}
}

func TestUnansweredRenewalsAreCountedInARow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := sim(t)
		b := opened(t, onSim(t, s), WithTimeout(time.Second))
		rec := hold(t, b)
		renew := func(f firestoresim.Fault) error {
			defer s.Fault(f).Always().Now().Stop()
			for {
				if _, err := b.Lock.Renew(t.Context(), rec); !errors.Is(err, errPaused) {
					return err
				}
				time.Sleep(100 * time.Millisecond)
			}
		}
		hang, down := firestoresim.Hang(), firestoresim.Fail(codes.Internal, "down")
		require.NotErrorIs(t, renew(hang), ErrSilent)
		require.NotErrorIs(t, renew(down), ErrSilent, "an answer, if a bad one")
		require.NotErrorIs(t, renew(hang), ErrSilent)
		err := renew(hang)
		require.ErrorIs(t, err, ErrSilent)
		require.ErrorIs(t, err, ErrUnavailable)
		require.ErrorIs(t, renew(hang), ErrSilent)
	})
}

func TestNewClientKeepsDatabaseAndEmulator(t *testing.T) {
	e := firestoresim.NeedEmulator(t)
	t.Setenv(firestoresim.HostEnv, e.Addr())
	project := "demo-" + strings.ToLower(rand.Text()[:20])
	path := func(opts ...ClientOption) string {
		c, err := NewClient(t.Context(), project, opts...)
		require.NoError(t, err)
		t.Cleanup(func() { _ = c.Close() })
		_, err = c.Doc("a/b").Set(t.Context(), map[string]any{"x": 1})
		require.NoError(t, err)
		return c.Doc("a/b").Path
	}
	require.Contains(t, path(), project+"/databases/(default)/")
	require.Contains(t, path(WithDatabase(""), WithKeepalive(0, 0)), project+"/databases/(default)/")
	require.Contains(t, path(WithDatabase("accounts")), project+"/databases/accounts/")
	_, err := NewClient(t.Context(), project, WithKeepalive(-1, 0))
	require.ErrorContains(t, err, "WithKeepalive")
}

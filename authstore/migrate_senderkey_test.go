package authstore

import (
	"context"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/types"
)

// A move to the LID waits for a message that is being decrypted under the number.
// That message may bring a sender key, which moves as well.
func TestSenderKeyThatComesBeforeTheMoveMovesToo(t *testing.T) {
	const group, number, lid = "120363@g.us", "15550100:0", "900_1:0"
	for name, older := range map[string][]byte{"the first": nil, "over an older one": validSenderKey([]byte{1})} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, d, _ := open(t, newMapKV())
				require.NoError(t, d.Sessions.PutSession(bg, number, validSession(t, 1)))
				if older != nil {
					require.NoError(t, d.SenderKeys.PutSenderKey(bg, group, number, older))
				}
				newer := validSenderKey([]byte{2})
				began, goOn, received, moved := make(chan struct{}), make(chan struct{}), make(chan error, 1), make(chan error, 1)
				go func() {
					received <- d.EventBuffer.DoDecryptionTxn(bg, func(ctx context.Context) error {
						if _, err := d.Sessions.GetSession(ctx, number); err != nil {
							return err
						}
						close(began)
						<-goOn
						if err := d.SenderKeys.PutSenderKey(ctx, group, number, newer); err != nil {
							return err
						}
						return d.Sessions.PutSession(ctx, number, validSession(t, 2))
					})
				}()
				<-began
				go func() {
					moved <- d.Sessions.MigratePNToLID(bg, types.NewJID("15550100", types.DefaultUserServer), types.NewJID("900", types.HiddenUserServer))
				}()
				synctest.Wait()
				close(goOn)
				require.NoError(t, <-received)
				require.NoError(t, <-moved)
				key, err := d.SenderKeys.GetSenderKey(bg, group, lid)
				require.NoError(t, err)
				require.Equal(t, newer, key)
				key, err = d.SenderKeys.GetSenderKey(bg, group, number)
				require.NoError(t, err)
				require.Nil(t, key)
			})
		})
	}
}

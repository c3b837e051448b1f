package browsertest

import (
	"bytes"
	"image/png"
	"strings"
	"testing"

	"github.com/chromedp/chromedp/kb"
	"github.com/makiuchi-d/gozxing"
	"github.com/makiuchi-d/gozxing/qrcode"
	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
)

// seen is the code that a camera finds in what the window shows.
func (b *tab) seen() (string, error) {
	b.t.Helper()
	img, err := png.Decode(bytes.NewReader(b.picture()))
	require.NoError(b.t, err)
	bits, err := gozxing.NewBinaryBitmapFromImage(img)
	require.NoError(b.t, err)
	found, err := qrcode.NewQRCodeReader().Decode(bits, map[gozxing.DecodeHintType]any{gozxing.DecodeHintType_TRY_HARDER: true})
	if err != nil {
		return "", err
	}
	return found.GetText(), nil
}

// looks is the code on the screen, after scrolling to it as a person does.
func (b *tab) looks() string {
	b.t.Helper()
	b.await("a code", func() bool { return eval[bool](b, `!!document.querySelector("#qr svg, #qr img")`) })
	eval[bool](b, `document.querySelector("#qr").scrollIntoView({ block: "center", behavior: "instant" }), true`)
	var code string
	b.await("a code that a camera can read", func() bool {
		var err error
		code, err = b.seen()
		return err == nil
	})
	return code
}

// The phone reads the code from the screen, in each colour and size, and the
// page says that the account is connected. Nobody loads it anew.
func TestCodeOnScreenLinksPhone(t *testing.T) {
	t.Parallel()
	chromium(t)
	p := newPlace(t).run()
	p.await(func(st stability.Status) bool { return st.QRAvailable })
	b := newTab(t)
	p.enter(b)
	eval[bool](b, "window.stayed = true")
	var code string
	for _, size := range []func(){b.desktop, b.phone} {
		for _, scheme := range []string{"light", "dark"} {
			size()
			b.scheme(scheme)
			b.await("the code of now on the screen", func() bool { // a code is replaced after 20 s
				code = b.looks()
				now, ok := p.m.QR()
				require.True(t, ok)
				return now.Code == code
			})
		}
	}
	require.NoError(t, p.account.Phone().Scan(code))
	p.await(func(st stability.Status) bool { return st.WA == reconnect.StatusConnected })
	b.awaitState("connected")
	require.True(t, eval[bool](b, "window.stayed === true"), "the page was loaded anew")
	require.False(t, eval[bool](b, `!!document.querySelector("#qr")`), "the code is over")
	b.calm()
}

// The code to type is asked for with the form, read from the page, and typed
// into the phone. All of it works without JavaScript too.
func TestCodeToTypeLinksPhone(t *testing.T) {
	t.Parallel()
	for _, script := range []bool{true, false} {
		t.Run(map[bool]string{true: "with script", false: "without script"}[script], func(t *testing.T) {
			chromium(t)
			t.Parallel()
			p := newPlace(t).run()
			p.await(func(st stability.Status) bool { return st.QRAvailable })
			b := newTab(t)
			if !script {
				b.withoutScript()
			}
			p.enter(b)
			if !eval[bool](b, `document.querySelector("details#pair").open`) {
				b.click(`document.querySelector("#pair summary")`)
			}
			b.typeInto("#phone", "+49 1520 000001"+kb.Enter)
			b.await("the code to type", func() bool { return eval[bool](b, `!!document.querySelector("#typed-code")`) })
			b.save("code")
			code := strings.TrimSpace(eval[string](b, `document.querySelector("#typed-code").innerText`))
			require.NoError(t, p.account.Phone().EnterCode(code))
			p.await(func(st stability.Status) bool { return st.WA == reconnect.StatusConnected })
			if !script {
				p.reload(b)
			}
			b.awaitState("connected")
			require.NotContains(t, b.text(), code)
			b.calm()
		})
	}
}

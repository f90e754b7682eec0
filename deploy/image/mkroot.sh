#!/bin/sh
# Makes the root file system of the image, without a registry: the program, what it is linked with or opens, and nothing else,
# no shell above all.
#
#     mkroot.sh [--bootstrap] BUILD_DIR OUT_DIR
#
# BUILD_DIR/sluice is the program, OUT_DIR becomes the root (what was there is replaced, if it was made by this script). Files
# are taken from the Debian that this runs on; with --bootstrap from a fresh one with nothing but deploy/image/packages, which
# mmdebstrap makes (root, network). The Dockerfile runs it in such a Debian, too. What it took is written down and checked by
# sbom.sh: a file that no Debian package owns, or that is not as its package brought it, is an error.
set -eu
here=$(cd "$(dirname "$0")" && pwd)

fail() {
    echo "mkroot: $*" >&2
    exit 1
}

bootstrap=false
if [ "${1:-}" = --bootstrap ]; then
    bootstrap=true
    shift
fi
[ $# -eq 2 ] || fail "the form is mkroot.sh [--bootstrap] BUILD_DIR OUT_DIR"
program=$1/sluice
[ -f "$program" ] || fail "there is no $program; build it first"
out=$2
if [ -e "$out" ] && [ -n "$(ls -A "$out")" ] && [ ! -e "$out/usr/share/doc/sluice" ]; then
    fail "$out is not empty, and not a root that this script made; name another directory"
fi
rm -rf "$out"
mkdir -p "$out"
out=$(cd "$out" && pwd)

# ---- In a fresh Debian: this script once more, there. ----

if $bootstrap; then
    command -v mmdebstrap >/dev/null || fail "there is no mmdebstrap; install it, or leave out --bootstrap"
    debian=$(mktemp -d)
    trap 'rm -rf "$debian"' EXIT
    chmod 755 "$debian"
    include=$(tr '\n' , <"$here/packages")
    mmdebstrap --quiet --variant=essential --include="${include%,}" bookworm "$debian"
    mkdir "$debian/image" "$debian/build"
    cp "$here/mkroot.sh" "$here/sbom.sh" "$here/opened" "$here/../../LICENSE" "$debian/image/"
    cp "$program" "$debian/build/sluice"
    if command -v strip >/dev/null; then strip "$debian/build/sluice"; fi
    chroot "$debian" sh /image/mkroot.sh /build /out
    cp -a "$debian/out/." "$out/"
    exit 0
fi

# ---- What Debian brings. ----

# take PATH: that file and, if it is a link, what it points to, where Debian has them. /lib is a link to /usr/lib, and
# everything lies below the latter.
take() {
    from=$1
    while :; do
        folder=$(realpath "$(dirname "$from")")
        from=$folder/$(basename "$from")
        [ -e "$from" ] || fail "there is no $1, which the image needs; install the packages of deploy/image/packages"
        if [ ! -e "$out$from" ] && [ ! -L "$out$from" ]; then
            mkdir -p "$out$folder"
            cp -P --preserve=mode,timestamps "$from" "$out$from"
        fi
        [ -L "$from" ] || break
        target=$(readlink "$from")
        case $target in
        /*) from=$target ;;
        *) from=$folder/$target ;;
        esac
    done
}

# needed FILE...: the libraries that the loader finds for these, theirs included.
needed() {
    listed=$(for file in "$@"; do
        "$loader" --list "$file" || fail "the loader does not find all that $file is linked with"
    done)
    echo "$listed" | awk '/=> \//{print $3}' | sort -u
}

case $(uname -m) in
x86_64) triplet=x86_64-linux-gnu loader=/lib64/ld-linux-x86-64.so.2 ;;
aarch64) triplet=aarch64-linux-gnu loader=/lib/ld-linux-aarch64.so.1 ;;
*) fail "no image is made for $(uname -m): x86_64 and aarch64 are known" ;;
esac
libraries=/usr/lib/$triplet

mkdir -p "$out/usr/bin" "$out/usr/lib" "$out/etc" "$out/usr/share/doc/sluice"
ln -s usr/lib "$out/lib"
if [ -d /lib64 ]; then
    mkdir "$out/usr/lib64"
    ln -s usr/lib64 "$out/lib64"
fi
opened=
while read -r pattern; do
    found=$(ls $libraries/$pattern) || fail "there is no $libraries/$pattern, which is opened at run time"
    opened="$opened $found"
done <"$here/opened"
take "$loader"
# shellcheck disable=SC2086 # several names
linked=$(needed "$program" $opened)
for file in $opened $linked; do
    take "$file"
done
if [ -e /etc/libibverbs.d/mlx5.driver ]; then take /etc/libibverbs.d/mlx5.driver; fi

# ---- What is ours. ----

cp "$program" "$out/usr/bin/sluice"
if command -v strip >/dev/null; then strip "$out/usr/bin/sluice"; fi
printf 'root:x:0:0::/:/sbin/nologin\nsluice:x:65532:65532::/:/sbin/nologin\n' >"$out/etc/passwd"
printf 'root:x:0:\nsluice:x:65532:\n' >"$out/etc/group"
echo 'hosts: files dns' >"$out/etc/nsswitch.conf"
license=$here/../../LICENSE
[ -e "$license" ] || license=$here/LICENSE
cp "$license" "$out/usr/share/doc/sluice/copyright"
mkdir -p "$out/proc" "$out/sys" "$out/dev" "$out/run" "$out/tmp" "$out/models" "$out/var/cache/sluice"
if [ "$(id -u)" -eq 0 ]; then chown 65532:65532 "$out/var/cache/sluice"; fi

# ---- Under which terms, and what it is. ----

"$here/sbom.sh" --packages "$out" | while read -r package; do
    doc=/usr/share/doc/$package
    if [ -L "$doc" ] && [ ! -L "$out$doc" ]; then cp -P "$doc" "$out$doc"; fi # that of another package
    if [ -e "$doc/copyright" ]; then take "$doc/copyright"; fi
done
chmod -R a+rX,go-w "$out"
chmod 1777 "$out/tmp"
"$here/sbom.sh" "$out"
